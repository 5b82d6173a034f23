"""A run that was stopped, however, goes on to what it would have been."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from jaxllm.commands import validation
from jaxllm.training import logfile

from . import runs
from .interruptions import at_step, run_with_crash


def test_stopped_in_every_way_is_the_uninterrupted_run(ids, uninterrupted, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    for step, number, code in ((2, signal.SIGTERM, 75), (4, signal.SIGINT, 130)):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda number=number: signal.raise_signal(number))
            assert runs.start(ids, run_dir) == code
        assert runs.checkpoints(run_dir)[-1] == step
        assert [at for at, _ in runs.losses(run_dir)] == list(range(1, step + 1))
        assert not (run_dir / "summary.json").exists()
    run_with_crash(7, ids, run_dir)
    runs.assert_same_run(run_dir, uninterrupted, step=8)


# In the names of figures that a clock or a memory meter gives.
MEASURED = ("_per_second", "seconds", "_share", "flops", "utilization", "memory", "goodput")


def computed_figures(record):
    return {key: value for key, value in record.items() if not any(m in key for m in MEASURED)}


def without_measures(run_dir):
    """Every record of metrics.jsonl without what a clock or a memory meter says."""
    return [computed_figures(record) for record in runs.records(run_dir)]


def summary_figures(run_dir):
    return computed_figures(json.loads((run_dir / "summary.json").read_text()))


@pytest.mark.slow
def test_scores_that_a_stop_had_no_time_for_are_made_at_the_next_start(
    text, finished, tmp_path, monkeypatch
):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        assert runs.start(text, run_dir) == 75
    assert [record["step"] for record in runs.records(run_dir)] == [1, 2, 3]
    run_with_crash(4, text, run_dir)
    assert without_measures(run_dir) == without_measures(finished)


@pytest.mark.parametrize("step", [3, 6])
def test_a_stop_within_an_evaluation_is_saved_and_the_scores_are_made_at_the_next_start(
    text, finished, tmp_path, monkeypatch, step
):
    """At step 3, which is no time to save, and at the last one."""
    run_dir = tmp_path / "run"
    at_batch, count = [], validation.Validation._after_batch

    def count_and_stop(self):
        at_batch.append(int(self._step))
        if at_batch.count(step) == 2:
            signal.raise_signal(signal.SIGTERM)
        count(self)

    score = validation.Validation._score_sets

    def note_and_score(self, at, params, **options):
        self._step = at
        return score(self, at, params, **options)

    with monkeypatch.context() as patch:
        patch.setattr(validation.Validation, "_after_batch", count_and_stop)
        patch.setattr(validation.Validation, "_score_sets", note_and_score)
        assert runs.start(text, run_dir) == 75
    assert at_batch.count(step) == 2  # it has more
    assert runs.checkpoints(run_dir)[-1] == step
    assert [record["step"] for record in runs.records(run_dir)][-1] == step
    assert "validation_loss" not in runs.records(run_dir)[-1]
    assert not (run_dir / "summary.json").exists()
    assert runs.start(text, run_dir) == 0
    assert without_measures(run_dir) == without_measures(finished)
    assert summary_figures(run_dir) == summary_figures(finished)


def test_a_second_ctrl_c_interrupts_at_once(ids, tmp_path, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        runs.start(ids, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


KILLED_AT_A_STEP = """
import os, signal, sys
from jaxllm import cli
from jaxllm.training.step_log import StepLog
push, step = StepLog.push, int(sys.argv.pop(1))
def push_or_die(self, at, metrics):
    push(self, at, metrics)
    if at == step:
        os.kill(os.getpid(), signal.SIGKILL)
StepLog.push = push_or_die
cli.main()
"""

# Everything of the checkpoint is written but for the renames that make it one.
KILLED_INSIDE_A_SAVE = """
import os, signal
from jaxllm import cli
from orbax.checkpoint._src.path import atomicity
async def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
atomicity.AtomicRenameTemporaryPath.finalize = die
cli.main()
"""


def test_killed_inside_a_save_and_at_any_step_is_the_uninterrupted_run(
    ids, uninterrupted, tmp_path
):
    run_dir = tmp_path / "run"
    arguments = ("train", ids, f"run_dir={run_dir}")
    died = runs.run_script(KILLED_INSIDE_A_SAVE, *arguments)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert runs.checkpoints(run_dir) == []
    assert list((run_dir / "checkpoints").glob("3.*tmp*"))
    step = random.randint(1, 8)
    died = runs.run_script(KILLED_AT_A_STEP, step, *arguments)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert runs.start(ids, run_dir) == 0
    try:
        runs.assert_same_run(run_dir, uninterrupted, step=8)
    except AssertionError as error:
        error.add_note(f"killed after step {step}")
        raise
    assert not list((run_dir / "checkpoints").glob("*tmp*"))


def test_sigterm_from_outside_ends_with_75_and_a_checkpoint(ids, tmp_path):
    run_dir = tmp_path / "run"
    endless = runs.command("train", ids, f"run_dir={run_dir}", "training.steps=1000000")
    process = subprocess.Popen(
        [*endless, "checkpoints.every=1000000"],
        env=runs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    metrics = run_dir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert runs.checkpoints(run_dir) == [runs.losses(run_dir)[-1][0]]


def test_a_crash_before_the_summary_leaves_a_run_that_goes_on(ids, unfinished, uninterrupted):
    """metrics.jsonl is ahead of the checkpoint, and its last line is torn."""
    with open(unfinished / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')
    assert runs.start(ids, unfinished) == 0
    runs.assert_same_run(unfinished, uninterrupted, step=8)


def test_more_steps_under_a_constant_schedule_go_on_from_the_end(ids, uninterrupted, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    assert runs.start(ids, run_dir, "training.steps=10") == 0
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, 11))
    assert runs.computed(run_dir)[:8] == runs.computed(uninterrupted)
    assert runs.checkpoints(run_dir)[-1] == 10


def test_a_requested_change_holds_from_there_on(ids, unfinished, uninterrupted):
    overrides = ["optim.learning_rate=0.02", "optim.clip_norm=null"]
    requested = ["optim.learning_rate", "optim.clip_norm"]
    assert runs.start(ids, unfinished, *overrides, requested=requested) == 0
    assert runs.losses(unfinished)[:7] == runs.losses(uninterrupted)[:7]
    rates = [record["learning_rate"] for record in runs.computed(unfinished)]
    assert rates[5:] == pytest.approx([0.01, 0.02, 0.02])
    assert runs.losses(unfinished)[7] != runs.losses(uninterrupted)[7]
    kept = yaml.safe_load((unfinished / "config.yaml").read_text())
    assert kept["optim"]["learning_rate"] == 0.02


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (["model.mlp_dim=64"], ["model.mlp_dim: 32 in the run folder, 64 given"]),
        (["seed=1"], ["seed: 0 in the run folder, 1 given"]),
        (
            ["optim.learning_rate=0.02", "data.sequence_length=32"],
            [
                "optim.learning_rate: 0.01 in the run folder, 0.02 given",
                "data.sequence_length: 16 in the run folder, 32 given",
            ],
        ),
        (["optim.schedule={type: cosine}"], ["'constant' in the run folder, 'cosine' given"]),
        (["training.ema=null"], ["training.ema.decay: 0.5 in the run folder, None given"]),
    ],
)
def test_another_run_in_the_same_folder_is_refused(ids, unfinished, overrides, lines):
    before = runs.contents(unfinished)
    with pytest.raises(ValueError, match="holds a run with another config") as refusal:
        runs.start(ids, unfinished, *overrides)
    for line in lines:
        assert line in str(refusal.value)
    assert runs.contents(unfinished) == before


def test_a_corrupt_checkpoint_is_moved_aside_and_computed_again(
    ids, uninterrupted, tmp_path, capsys
):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    array = max((run_dir / "checkpoints" / "8" / "params").rglob("d/*"), key=os.path.getsize)
    content = bytearray(array.read_bytes())
    content[len(content) // 2] ^= 1
    array.write_bytes(content)
    assert runs.start(ids, run_dir) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "checkpoint 8 is corrupt: params/" in said
    assert (run_dir / "checkpoints" / "quarantine" / "8").is_dir()
    runs.assert_same_run(run_dir, uninterrupted, step=8)


def test_other_tokens_under_the_same_config_are_refused(ids, unfinished, tmp_path):
    """The config is the run's own; the file it names has changed."""
    folder = ids.parent
    original = (folder / "train.bin").read_bytes()
    before = runs.contents(unfinished)
    try:
        (folder / "train.bin").write_bytes(original[:-2] + b"\x07\x00")
        with pytest.raises(ValueError, match="the data differs from what the checkpoint"):
            runs.start(ids, unfinished)
    finally:
        (folder / "train.bin").write_bytes(original)
    assert runs.contents(unfinished) == before


def test_a_checkpoint_of_another_architecture_is_listed(ids, unfinished):
    config = yaml.safe_load((unfinished / "config.yaml").read_text())
    config["model"]["mlp_dim"] = 64
    (unfinished / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="of another architecture") as refusal:
        runs.start(ids, unfinished, "model.mlp_dim=64")
    assert "weights.blocks.layers.mlp.up.kernel: saved (2, 32, 32)" in str(refusal.value)
    assert "asks for (2, 32, 64)" in str(refusal.value)
    assert runs.checkpoints(unfinished) == [6]


def test_a_checkpoint_that_does_not_fit_the_disk_ends_the_run_and_loses_nothing(
    ids, unfinished, uninterrupted
):
    """A limit on the size of files stands in for the end of the disk, which needs no privilege."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    full = subprocess.run(
        runs.command("train", ids, f"run_dir={unfinished}"),
        env=runs.environment(),
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert full.returncode == 1
    reason = os.strerror(errno.EFBIG)  # ENOSPC where it is the disk
    assert f"a checkpoint could not be written ({reason})" in full.stderr
    assert "Traceback" not in full.stderr
    assert runs.checkpoints(unfinished) == [6]
    assert runs.start(ids, unfinished) == 0
    runs.assert_same_run(unfinished, uninterrupted, step=8)


class FullDisk:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        if len(data) > self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._room -= len(data)
        return self._file.write(data)


def test_metrics_that_do_not_fit_the_disk_end_the_run_and_lose_nothing(
    ids, uninterrupted, tmp_path, monkeypatch
):
    def open_on_full_disk(path, mode, **kwargs):
        file = open(path, mode, **kwargs)  # noqa: SIM115
        return FullDisk(file, 1500) if path.name == "metrics.jsonl" else file

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(logfile, "open", open_on_full_disk, raising=False)
        with pytest.raises(OSError, match=r"The disk is full.*metrics\.jsonl"):
            runs.start(ids, run_dir)
    assert runs.start(ids, run_dir) == 0
    runs.assert_same_run(run_dir, uninterrupted, step=8)


@pytest.mark.slow
def test_an_optimizer_in_host_memory_goes_on_in_the_devices_and_back(
    ids, uninterrupted, tmp_path, monkeypatch
):
    """Where the state lies changes nothing that is computed or saved."""
    run_dir = tmp_path / "run"
    for step, is_away in ((3, "true"), (5, "false")):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
            assert runs.start(ids, run_dir, f"parallel.offload_optimizer={is_away}") == 75
    assert runs.start(ids, run_dir, "parallel.offload_optimizer=true") == 0
    runs.assert_same_run(run_dir, uninterrupted, step=8)
