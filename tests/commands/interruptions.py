"""Runs that end in the middle, and go on at the next start."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jaxllm.training.step_log import StepLog

from . import runs


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Do `action` once, in the loop, when step `step` has been dispatched."""
    push, done = StepLog.push, []

    def push_and_act(self, at, metrics):
        push(self, at, metrics)
        if at == step and not done:
            done.append(True)
            action()

    monkeypatch.setattr(StepLog, "push", push_and_act)


def crash() -> None:
    raise RuntimeError("the power is gone")


def crash_at(step: int, config: Path, run_dir: Path, *overrides: str) -> None:
    """A start that ends after `step`, with no chance to save it."""
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, step, crash)
        with pytest.raises(RuntimeError, match="the power is gone"):
            runs.start(config, run_dir, *overrides)


def run_with_crash(step: int, config: Path, run_dir: Path, *overrides: str) -> Path:
    """The run folder of two starts, of which the first ends after `step`, saved at one before."""
    crash_at(step, config, run_dir, *overrides)
    assert 0 < runs.checkpoints(run_dir)[-1] < step
    assert runs.start(config, run_dir, *overrides) == 0
    return run_dir
