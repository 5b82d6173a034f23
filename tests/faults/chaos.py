"""Runs that are killed at random moments until they are done anyway. Seeded and replayable."""

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from commands import runs

from .experiments import Experiment

CONFIG = """
run_dir: {folder}/run
model: {{num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32, dropout: 0.1}}
data:
  sequence_length: 16
  global_batch_size: 8
  datasets:
    ids: {{type: bin, train: {folder}/train.bin, vocab_size: 60, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: {steps}, ema: {{decay: 0.5}}}}
checkpoints: {{every: {every}, keep_latest: 2}}
compilation_cache: {cache}
"""


def write_config(folder: Path, *, steps: int, every: int, cache: Path | None) -> Path:
    """The config of a tiny run on random ids, written beside them."""
    runs.write_ids(folder)
    path = folder / "ids.yaml"
    path.write_text(
        CONFIG.format(folder=folder, steps=steps, every=every, cache=cache or "null"),
        encoding="utf-8",
    )
    return path


def uninterrupted(start: Sequence[str], *, environment: dict[str, str]) -> float:
    """Runs a command that nothing stops; the seconds it took."""
    began = time.monotonic()
    ended = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return time.monotonic() - began


def killed_until_done(
    start: Sequence[str],
    run_dir: Path,
    experiment: Experiment,
    *,
    rng: random.Random,
    longest: float,
    kills: int,
    environment: dict[str, str],
    moments: Sequence[str] = ("any", "any", "save", "compile"),
) -> None:
    """Starts a run again and again, each time killing it at some moment; at last lets it end.

    longest: seconds of the latest moment. Moments: any, during a save, or before the first step.
    """
    done = 0
    while done < kills:
        written = config_time(run_dir)
        process = subprocess.Popen(
            start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        experiment.tries += 1
        try:
            moment, delay = rng.choice(moments), rng.uniform(0, longest)
            wait_for_moment(moment, process, run_dir, delay=delay, written=written)
            if process.poll() is not None:
                assert process.returncode == 0, process.stderr.read()
                break  # it was done before
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        done += 1
        experiment.kills += 1
        experiment.lost(max(0, last_step(run_dir) - last_checkpoint(run_dir)))
    experiment.tries += 1
    uninterrupted(start, environment=environment)


def wait_for_moment(
    moment: str, process: subprocess.Popen, run_dir: Path, *, delay: float, written: int
) -> None:
    """Waits for the moment, the end of the process or a minute, whichever is first.

    written: `config_time` before the start. A run writes its config right before it compiles.
    """
    began = time.monotonic()
    saving = "*.orbax-checkpoint-tmp*"
    while process.poll() is None and time.monotonic() - began < 60:
        passed = time.monotonic() - began
        is_saving = any((run_dir / "checkpoints").glob(saving))
        if moment == "save" and is_saving:
            time.sleep(delay / 1000)  # somewhere within it
            return
        if moment == "compile" and config_time(run_dir) != written:
            time.sleep(delay / 10)
            return
        if moment == "any" and passed > delay:
            return
        time.sleep(0.002)


def config_time(run_dir: Path) -> int:
    """When the run's config was written, in nanoseconds; 0 before."""
    path = run_dir / "config.yaml"
    return path.stat().st_mtime_ns if path.exists() else 0


def last_step(run_dir: Path) -> int:
    """The newest step of metrics.jsonl; 0 without one."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")[:-1]
    steps = [line.split(b'"step": ')[1].split(b",")[0] for line in lines if b'"loss"' in line]
    return int(steps[-1]) if steps else 0


def last_checkpoint(run_dir: Path) -> int:
    """The newest complete checkpoint; 0 without one."""
    folder = run_dir / "checkpoints"
    return max(runs.checkpoints(run_dir), default=0) if folder.is_dir() else 0


def bytes_lost(run_dir: Path, other: Path, *, step: int) -> int:
    """Bytes of losses, data position and final state in which two finished runs differ."""
    lost = sum(
        len(str(one)) + len(str(two))
        for one, two in zip(runs.computed(run_dir), runs.computed(other), strict=True)
        if one != two
    )
    saved, expected = runs.arrays(run_dir, step), runs.arrays(other, step)
    for path, array in expected.items():
        if array.tobytes() != saved[path].tobytes():
            lost += array.nbytes
    return lost
