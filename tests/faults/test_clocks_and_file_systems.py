"""Clocks that jump, and file systems that fail now and then, always, or let nobody write."""

import errno
import json
import math
import os
import shutil
import time

import pytest
from commands import runs

from jaxllm.checkpoints import manifest
from jaxllm.training import logfile
from jaxllm.training.goodput import Goodput
from jaxllm.training.metrics import last_step
from jaxllm.training.step_log import StepLog

from . import chaos

pytestmark = pytest.mark.faults

STEPS = 8


def seconds_of(run_dir):
    """Every number of seconds in goodput.jsonl."""
    lines = (run_dir / "goodput.jsonl").read_text().splitlines()
    return [s for line in lines for s in json.loads(line)["seconds"].values()]


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_jumps(ids, uninterrupted, tmp_path, monkeypatch, experiment, hours):
    """Within a start, at each step anew, and between two starts."""
    experiment.done = f"the clock jumps by {hours} hours, at each step and between two starts"
    run_dir, now, shift = tmp_path / "run", time.time, [0.0]

    def jumping():
        return now() + shift[0]

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setitem(Goodput.__init__.__kwdefaults__, "wall_clock", jumping)
    push = StepLog.push

    def push_and_jump(self, step, metrics):
        push(self, step, metrics)
        experiment.tries += 1
        shift[0] = hours * 3600.0 if step % 2 else 0.0

    monkeypatch.setattr(StepLog, "push", push_and_jump)
    began = time.monotonic()
    for steps in (5, STEPS):  # the second start is `hours` away from the first
        assert runs.start(ids, run_dir, f"training.steps={steps}") == 0
    passed = time.monotonic() - began
    experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
    runs.assert_same_run(run_dir, uninterrupted, step=STEPS)
    spent = seconds_of(run_dir)
    assert min(spent) >= 0
    # A clock that goes forward between two starts looks like a pause; else only real time counts.
    assert sum(spent) <= passed + max(hours, 0) * 3600 + 1
    assert (sum(spent) > hours * 3600) or hours < 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert 0 <= summary["wall_seconds"] <= passed
    for record in runs.computed_fully(run_dir):
        assert record["tokens_per_second"] > 0
        assert math.isfinite(record["tokens_per_second"])


class Failing:
    """Calls of which each n-th is refused; with 1 all of them."""

    def __init__(self, experiment, *, every, code):
        self._experiment, self._every, self._code = experiment, every, code
        self._calls = self.refused = 0

    def around(self, call):
        def sometimes(*arguments, **options):
            self._calls += 1
            if self._calls % self._every == 0:
                self._experiment.tries += 1
                self.refused += 1
                raise OSError(self._code, os.strerror(self._code))
            return call(*arguments, **options)

        return sometimes

    def renames(self, patch):
        """Renames in folders of checkpoints, which are what completes one."""
        for name in ("rename", "replace"):
            plain = getattr(os, name)
            refused = self.around(plain)

            def rename(source, target, *, plain=plain, refused=refused, **options):
                call = refused if "/checkpoints/" in str(source) else plain
                return call(source, target, **options)

            patch.setattr(os, name, rename)

    def open(self, *arguments, **options):
        """A file of which each n-th write is refused."""
        return _File(open(*arguments, **options), self)


class _File:
    def __init__(self, file, failing):
        self._file = file
        self.write = failing.around(file.write)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


CODES = {"EIO": errno.EIO, "ESTALE": errno.ESTALE, "ETIMEDOUT": errno.ETIMEDOUT}


@pytest.mark.parametrize("name", CODES)
def test_files_that_fail_now_and_then(ids, uninterrupted, tmp_path, monkeypatch, experiment, name):
    """Metrics when they are written; checkpoints when they are listed, renamed and read."""
    experiment.done = f"{name} now and then while metrics and checkpoints are written and read"
    run_dir = tmp_path / "run"
    code = CODES[name]
    metrics = Failing(experiment, every=3, code=code)
    # A save renames six times: no two tries in a row fail.
    commits = Failing(experiment, every=8, code=code)
    reads = Failing(experiment, every=2, code=code)
    monkeypatch.setattr(logfile, "open", metrics.open, raising=False)
    commits.renames(monkeypatch)
    monkeypatch.setattr(
        "jaxllm.checkpoints.quarantine.find_damage", reads.around(manifest.find_damage)
    )
    assert runs.start(ids, run_dir, "training.steps=5") == 0
    assert runs.start(ids, run_dir) == 0
    assert min(metrics.refused, commits.refused, reads.refused) > 0
    experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
    runs.assert_same_run(run_dir, uninterrupted, step=STEPS)


@pytest.mark.parametrize("what", ["metrics", "commit", "read"])
def test_files_that_always_fail(
    ids, unfinished, uninterrupted, tmp_path, monkeypatch, experiment, what
):
    experiment.done = f"EIO always, {what}: one error after the last try; then it goes on"
    always = Failing(experiment, every=1, code=errno.EIO)
    with monkeypatch.context() as patch:
        if what == "metrics":
            patch.setattr(logfile, "open", always.open, raising=False)
        elif what == "commit":
            always.renames(patch)
        else:
            patch.setattr(
                "jaxllm.checkpoints.quarantine.find_damage", always.around(manifest.find_damage)
            )
        with pytest.raises(OSError) as refused:
            runs.start(ids, unfinished)
    assert refused.value.errno == errno.EIO
    assert "run the same command again" in str(refused.value)
    assert 1 < experiment.tries <= 20
    assert runs.checkpoints(unfinished) == [6]
    experiment.lost(max(0, last_step(unfinished) - 6))
    assert runs.start(ids, unfinished) == 0
    experiment.bytes_lost += chaos.bytes_lost(unfinished, uninterrupted, step=STEPS)
    runs.assert_same_run(unfinished, uninterrupted, step=STEPS)


def test_a_folder_that_nobody_may_write(ids, uninterrupted, unfinished, disk, experiment, capsys):
    experiment.done = "a read-only folder, new or of a run: one error, before anything is compiled"
    there = disk.folder / "run"
    shutil.copytree(unfinished, there)
    disk.make("ro")
    for run_dir in (there, disk.folder / "new" / "run"):
        experiment.tries += 1
        with pytest.raises(ValueError, match="is not writable; give another run_dir"):
            runs.start(ids, run_dir)
        assert capsys.readouterr().out == ""
    disk.make("rw")
    assert runs.contents(there) == runs.contents(unfinished)
    assert runs.start(ids, there) == 0
    experiment.bytes_lost += chaos.bytes_lost(there, uninterrupted, step=STEPS)
