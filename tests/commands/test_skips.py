"""Steps that would harm a run are skipped, and where they do not end the run goes back."""

import errno
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import pytest

from jaxllm.commands import skips
from jaxllm.commands.rollback import BLAMED_STEPS, RunStuck, read_rollbacks
from jaxllm.commands.saved_state import SavedState
from jaxllm.commands.skips import SkippedSteps
from jaxllm.training.anomaly import AnomalyConfig
from jaxllm.training.step_log import StepLog

from . import poison, runs

# Enough accepted steps that losses are judged by their mean, and a checkpoint old enough.
STEPS = "training.steps=36"
OFTEN = ("checkpoints.every=4", "checkpoints.keep_latest=8", STEPS)
PATIENCE = "training.anomalies={patience: 3}"


def skipped(run_dir):
    """(step, batch, reason) of every line of skipped.jsonl."""
    lines = (run_dir / "skipped.jsonl").read_text().splitlines()
    return [(r["step"], r["batch"], r["reason"]) for r in map(json.loads, lines)]


def state_of(run_dir, step):
    """Every array of a checkpoint but the counters of steps and of what was skipped."""
    arrays = runs.arrays(run_dir, step)
    return {path: a for path, a in arrays.items() if "guard" not in path and "step" not in path}


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (math.nan, "not finite"),
        pytest.param(math.inf, "not finite", marks=pytest.mark.slow),
        pytest.param(100.0, "3 times the mean", marks=pytest.mark.slow),
    ],
)
def test_a_bad_step_changes_nothing_and_is_written_down(ids, tmp_path, monkeypatch, factor, reason):
    poison.batches(monkeypatch, {30: factor})
    for steps in (30, 33):
        every = f"checkpoints={{every: {1 if steps == 33 else 'null'}, keep_latest: 9}}"
        assert runs.start(ids, tmp_path / "run", every, f"training.steps={steps}") == 0
    before, after = state_of(tmp_path / "run", 30), state_of(tmp_path / "run", 31)
    assert before.keys() == after.keys()
    for path, array in before.items():
        assert array.tobytes() == after[path].tobytes(), path
    assert any(
        array.tobytes() != before[path].tobytes()
        for path, array in state_of(tmp_path / "run", 32).items()
    )
    ((step, batch, why),) = skipped(tmp_path / "run")
    assert (step, batch) == (31, 30)
    assert reason in why
    counts = [(r["is_skipped"], r["skipped_steps"]) for r in runs.records(tmp_path / "run")]
    assert counts == [(0, 0)] * 30 + [(1, 1)] + [(0, 1)] * 2


THREE_BAD = {24: math.nan, 25: math.inf, 26: math.nan}


@pytest.fixture(scope="module")
def went_back(ids, tmp_path_factory):
    """The folder of a run with three bad batches in a row. Read it only."""
    run_dir = tmp_path_factory.mktemp("went_back") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        poison.batches(patch, THREE_BAD)
        assert runs.start(ids, run_dir, *OFTEN, PATIENCE) == 0
    return run_dir


def test_bad_steps_in_a_row_take_the_run_back_without_their_batches(went_back):
    (rollback,) = read_rollbacks(went_back)
    first = 24 - BLAMED_STEPS
    assert (rollback.from_step, rollback.to_step) == (27, 12)
    assert rollback.batches == tuple(range(first, 27))
    assert [at for at, _ in runs.losses(went_back)] == list(range(1, 37))
    assert not any(record["is_skipped"] for record in runs.computed_fully(went_back))
    assert runs.checkpoints(went_back)[-1] == 36
    records = [json.loads(line) for line in (went_back / "goodput.jsonl").open()]
    (back,) = [record for record in records if record["event"] == "rollback"]
    assert (back["step"], back["to"]) == (27, 12)
    rows = runs.data_position(went_back, 36)["next_row"]
    assert rows == (36 + 27 - first) * runs.ROWS


@pytest.mark.slow
@pytest.mark.parametrize("moment", [27, 20, 26, 30])
def test_interrupted_around_it_the_run_is_the_same(ids, went_back, tmp_path, monkeypatch, moment):
    """In the series, right before the run goes back, and when it is at these steps once more."""
    push, seen = StepLog.push, []

    def push_and_stop(self, step, metrics):
        push(self, step, metrics)
        seen.append(step)
        if step == moment and seen.count(step) == 1 + (moment == 20):
            signal.raise_signal(signal.SIGTERM)

    poison.batches(monkeypatch, THREE_BAD)
    run_dir = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(StepLog, "push", push_and_stop)
        assert runs.start(ids, run_dir, *OFTEN, PATIENCE) == 75
    assert runs.start(ids, run_dir, *OFTEN, PATIENCE) == 0
    assert_went_back_too(run_dir, went_back)


def assert_went_back_too(run_dir, went_back):
    runs.assert_same_run(run_dir, went_back, step=36)
    found, expected = read_rollbacks(run_dir), read_rollbacks(went_back)
    assert [r._replace(to_step=0) for r in found] == [r._replace(to_step=0) for r in expected]


@pytest.mark.parametrize("is_before", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_sigterm_while_it_goes_back(ids, went_back, tmp_path, monkeypatch, is_before):
    """Before or after the checkpoints are deleted: it goes back, and ends as one to go on."""
    poison.batches(monkeypatch, THREE_BAD)
    forget_after = SavedState.forget_after

    def forget_and_stop(self, step):
        if not is_before:
            forget_after(self, step)
        signal.raise_signal(signal.SIGTERM)
        if is_before:
            forget_after(self, step)

    run_dir = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(SavedState, "forget_after", forget_and_stop)
        assert runs.start(ids, run_dir, *OFTEN, PATIENCE) == 75
    assert runs.checkpoints(run_dir)[-1] == 12
    assert len(read_rollbacks(run_dir)) == 1
    assert runs.start(ids, run_dir, *OFTEN, PATIENCE) == 0
    assert_went_back_too(run_dir, went_back)


def refuse(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "skipped.jsonl")


def test_skipped_steps_are_written_down_where_metrics_have_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(skips, "log_skipped", refuse)
    said = []
    figures = {"loss": math.nan, "gradient_norm": math.inf, "is_skipped": 1, "skipped_in_a_row": 1}
    metrics = jax.tree.map(jnp.float32, figures)
    for must_log in (False, True):
        skipped = SkippedSteps(
            AnomalyConfig(),
            tmp_path,
            batches=None,
            saved=None,
            can_begin_anew=True,
            must_log=must_log,
            on_rollback=pytest.fail,
            say=said.append,
        )
        if must_log:
            with pytest.raises(OSError, match=r"skipped\.jsonl"):
                skipped.must_go_back(3, metrics, is_paused=True)
        else:
            assert not skipped.must_go_back(3, metrics, is_paused=True)
    assert said[0] == "step 3 is missing from skipped.jsonl: No space left on device"
    assert len(said) == 2  # that, and why the step was skipped


@pytest.mark.slow
def test_a_run_goes_on_without_writing_skipped_steps_down(ids, tmp_path, monkeypatch, capsys):
    poison.batches(monkeypatch, {2: math.nan})
    monkeypatch.setattr(skips, "log_skipped", refuse)
    assert runs.start(ids, tmp_path / "run", "training.steps=4", "metrics.on_error=continue") == 0
    assert "step 3 is missing from skipped.jsonl" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_counts_go_on_after_a_stop(ids, tmp_path, monkeypatch):
    poison.batches(monkeypatch, {2: math.nan, 5: math.nan})
    run_dir = tmp_path / "run"
    assert runs.start(ids, run_dir, "training.steps=4") == 0
    assert runs.start(ids, run_dir, "training.steps=8") == 0
    assert [record["skipped_steps"] for record in runs.records(run_dir)] == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_run_that_stays_bad_ends_and_says_what_to_change(ids, tmp_path, monkeypatch):
    poison.batches(monkeypatch, dict.fromkeys(range(20, 60), math.nan))
    limits = "training.anomalies={patience: 3, max_rollbacks: 1}"
    with pytest.raises(RunStuck, match=r"went back 1 times.*max_rollbacks") as error:
        runs.start(ids, tmp_path / "run", *OFTEN, limits)
    assert "steps 1" in str(error.value)
    assert runs.checkpoints(tmp_path / "run")
