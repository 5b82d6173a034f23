"""A real disk that fills: one line, nothing that was saved is lost, and the run goes on after."""

import errno
import os
import shutil
import subprocess

import pytest
from commands import runs

from jaxllm.training.step_log import StepLog

from . import chaos

pytestmark = pytest.mark.faults

EVERY, NEXT, STEPS = 3, 6, 8
KEPT = "checkpoints.keep_latest=9"


@pytest.fixture(scope="module")
def killed(ids, tmp_path_factory):
    """A run that was killed after step 3, which is saved. Copy it."""
    run_dir = tmp_path_factory.mktemp("killed") / "killed"
    assert runs.start(ids, run_dir, KEPT) == 0
    for step in (NEXT, STEPS):
        shutil.rmtree(run_dir / "checkpoints" / str(step))
    (run_dir / "summary.json").unlink()
    return run_dir


@pytest.fixture(scope="module")
def saved_bytes(killed):
    """What one checkpoint takes, in whole pages."""
    folder = killed / "checkpoints" / str(EVERY)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4096 for size in sizes)


@pytest.fixture
def at_steps(monkeypatch):
    """Has things done when steps are dispatched, by step."""

    def at_steps(actions):
        def push_and_act(self, step, metrics):
            push(self, step, metrics)
            actions.get(step, lambda: None)()

        push = StepLog.push
        monkeypatch.setattr(StepLog, "push", push_and_act)

    return at_steps


def temporaries(run_dir):
    """What is neither a checkpoint nor the file of the folder itself."""
    names = [path.name for path in (run_dir / "checkpoints").iterdir() if not path.name.isdigit()]
    return [name for name in names if "tmp" in name]


# Of the room of a checkpoint: refused before it begins, failing midway, and all but the last file.
SHARES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.99)


def test_a_save_that_finds_no_room(
    ids, uninterrupted, killed, saved_bytes, disk, at_steps, experiment, capfd
):
    experiment.done = "a full disk during a save, with all shares of the room that it needs"
    room = []
    at_steps({NEXT: lambda: disk.leave(room[0]) if room else None})
    is_midway = []
    for share in SHARES:
        run_dir = disk.folder / "run"
        shutil.rmtree(run_dir, ignore_errors=True)
        shutil.copytree(killed, run_dir)
        room[:] = [int(share * saved_bytes)]
        experiment.tries += 1
        with pytest.raises(OSError) as refused:
            runs.start(ids, run_dir, KEPT)
        assert refused.value.errno == errno.ENOSPC, share
        is_midway.append("could not be written" in str(refused.value))
        # What a save takes varies by a few pages: a nearly full share may be enough, and the save
        # after it is the one that fails.
        kept = runs.checkpoints(run_dir)
        assert kept in ([EVERY], [EVERY, NEXT]), share
        assert share > 0.5 or kept == [EVERY], share
        assert temporaries(run_dir) == [], share
        disk.free()
        room.clear()
        experiment.lost(NEXT - EVERY if kept == [EVERY] else STEPS - NEXT)
        assert runs.start(ids, run_dir, KEPT) == 0
        experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
        runs.assert_same_run(run_dir, uninterrupted, step=STEPS)
    assert {True, False} == set(is_midway), "all failed at the same point"


def test_the_command_says_one_line(ids, killed, uninterrupted, saved_bytes, disk, experiment):
    experiment.done = "the command on a full disk: one line, code 1; then it goes on"
    run_dir = disk.folder / "run"
    shutil.copytree(killed, run_dir)
    disk.leave(saved_bytes // 2)
    start = runs.command("train", ids, f"run_dir={run_dir}", KEPT)
    experiment.tries += 1
    full = subprocess.run(
        start, env=runs.environment(), capture_output=True, text=True, timeout=300
    )
    assert full.returncode == 1, full.stderr
    (line,) = full.stderr.splitlines()
    assert os.strerror(errno.ENOSPC) in line
    assert "run the same command again" in line
    disk.free()
    chaos.uninterrupted(start, environment=runs.environment())
    experiment.lost(NEXT - EVERY)
    experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
    runs.assert_same_run(run_dir, uninterrupted, step=STEPS)


def test_metrics_that_find_no_room_end_the_run(ids, uninterrupted, disk, at_steps, experiment):
    experiment.done = "a full disk while metrics are written: the run stops, and goes on after"
    run_dir, is_full = disk.folder / "run", [True]

    def fill():
        """Each file has room up to the end of its page, which metrics reach soon."""
        if is_full:
            disk.leave(0)

    at_steps({4: fill})
    experiment.tries += 1
    never = "checkpoints.every=null"
    with pytest.raises(OSError, match="The disk is full") as refused:
        runs.start(ids, run_dir, never, "training.steps=100")
    assert refused.value.filename
    lost = chaos.last_step(run_dir)
    disk.free()
    is_full.clear()
    experiment.lost(lost)
    assert runs.start(ids, run_dir) == 0
    experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
    runs.assert_same_run(run_dir, uninterrupted, step=STEPS)


def test_a_run_that_may_go_on_does(ids, uninterrupted, disk, at_steps, experiment, capsys):
    experiment.done = "a full disk from step 1 to 6, where the run is to go on: lost are records"
    run_dir = disk.folder / "run"
    at_steps({1: lambda: disk.leave(0), 7: disk.free})
    goes_on = ("checkpoints.on_error=continue", "metrics.on_error=continue")
    experiment.tries += 1
    assert runs.start(ids, run_dir, *goes_on, KEPT) == 0
    said = " ".join(capsys.readouterr().out.split())
    for step in (EVERY, NEXT):
        assert said.count(f"step {step} was not saved, training goes on: ") == 1
    assert said.count("metrics are not written, and the run goes on without them: ") == 1
    assert said.count("metrics are written again; ") == 1
    assert runs.checkpoints(run_dir) == [STEPS]
    assert temporaries(run_dir) == []
    saved, expected = runs.arrays(run_dir, STEPS), runs.arrays(uninterrupted, STEPS)
    assert all(saved[path].tobytes() == expected[path].tobytes() for path in expected)
    kept, all_of_them = runs.computed(run_dir), runs.computed(uninterrupted)
    missing = [record for record in all_of_them if record not in kept]
    assert all(record in all_of_them for record in kept)
    assert kept[-1]["step"] == STEPS
    assert missing
    experiment.bytes_lost += sum(len(str(record)) for record in missing)
