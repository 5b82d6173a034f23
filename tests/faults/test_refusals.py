"""What is refused: another run in a run's folder, and a second one at the same time."""

import shutil
import signal
import subprocess
import time

import pytest
from commands import runs

from . import chaos

pytestmark = pytest.mark.faults


OTHERS = {
    "tokenizer": ("data.tokenizer={type: hf, path: other}", "data.tokenizer.type: 'byte'"),
    "dataset": ("data.datasets.plain.weight=2", "data.datasets.plain.weight: 1.0"),
    "corpus": ("data.datasets.plain.corpus.paths=[b]", "data.datasets.plain.corpus.paths"),
    "sequence length": ("data.sequence_length=16", "data.sequence_length: 32"),
    "schedule": ("optim.schedule.type=linear", "optim.schedule.type: 'cosine'"),
    "steps of it": ("training.steps=7", "training.steps: 6"),
    "model": ("model.num_layers=3", "model.num_layers: 2"),
    "seed": ("seed=1", "seed: 0"),
}


def test_another_run_does_not_go_on_here(text, finished, tmp_path, command, experiment):
    experiment.done = f"resuming with another {', '.join(OTHERS)}: refused, with the difference"
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "summary.json").unlink()
    before = runs.contents(run_dir)
    for name, (override, difference) in OTHERS.items():
        experiment.tries += 1
        code, said = command("train", text, f"run_dir={run_dir}", override)
        assert code == 2, name
        assert f"  {difference}" in said, name
        assert " in the run folder, " in said
        assert runs.contents(run_dir) == before, name


def test_what_is_asked_for_by_name_may_change(ids, unfinished, command, experiment):
    experiment.done = "another learning rate: refused, and with --change it goes on"
    start = ("train", ids, f"run_dir={unfinished}", "optim.learning_rate=0.02")
    before = runs.contents(unfinished)
    experiment.tries += 2
    code, said = command(*start)
    assert code == 2
    assert "--change optim.learning_rate" in said
    assert runs.contents(unfinished) == before
    assert command(*start, "--change", "optim.learning_rate")[0] == 0
    rates = [record["learning_rate"] for record in runs.computed(unfinished)]
    assert rates[5:] == pytest.approx([0.01, 0.02, 0.02])  # float32 of 0.01 and 0.02


def test_a_second_run_on_a_folder(ids, uninterrupted, tmp_path, command, experiment):
    experiment.done = "a second run on a folder: refused; after kill -9 of the first it goes on"
    run_dir = tmp_path / "run"
    start = ("train", ids, f"run_dir={run_dir}", "training.steps=1000000")
    first = subprocess.Popen(
        runs.command(*start), env=runs.environment(), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while chaos.last_checkpoint(run_dir) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        experiment.tries += 1
        code, said = command(*start)
        assert code == 2
        assert f"is in use by process {first.pid} on host" in said
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    experiment.kills += 1
    saved, computed = chaos.last_checkpoint(run_dir), chaos.last_step(run_dir)
    experiment.lost(max(0, computed - saved))
    assert command(*start[:-1], f"training.steps={saved + 4}")[0] == 0
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, saved + 5))
    expected = runs.losses(uninterrupted)
    assert runs.losses(run_dir)[: len(expected)] == expected[: saved + 4]
