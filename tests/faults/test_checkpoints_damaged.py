"""Each file of a checkpoint deleted, cut or flipped: found, named, set aside, and nothing lost."""

import shutil

import pytest
from commands import runs

from jaxllm.checkpoints import CheckpointConfig, CheckpointStore
from jaxllm.checkpoints.manifest import MANIFEST_FILE, files_under

from . import chaos

pytestmark = pytest.mark.faults

EVERY, NEWEST, STEPS = 3, 6, 8
KEPT = "checkpoints.keep_latest=9"


@pytest.fixture(scope="module")
def killed(ids, tmp_path_factory):
    """A run that was killed after step 6, with checkpoints of 3 and 6. Copy it."""
    run_dir = tmp_path_factory.mktemp("damaged") / "killed"
    assert runs.start(ids, run_dir, KEPT) == 0
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    (run_dir / "summary.json").unlink()
    return run_dir


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = (delete, cut, flip)


def damages(step_folder):
    """(file, what is done to it) of all that can be done to a checkpoint."""
    for name in files_under(step_folder):
        size = (step_folder / name).stat().st_size
        yield from ((name, damage) for damage in DAMAGES if size or damage is delete)


def test_every_damaged_file_is_found_and_named(killed, tmp_path, experiment):
    experiment.done = "each file of the newest checkpoint deleted, cut or flipped: found and named"
    folder = tmp_path / "checkpoints"
    for name, damage in list(damages(killed / "checkpoints" / str(NEWEST))):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(killed / "checkpoints", folder)
        damage(folder / str(NEWEST) / name)
        experiment.tries += 1
        said = []
        with CheckpointConfig(keep_latest=9).build(folder, on_message=said.append) as store:
            assert store.latest_step() == EVERY, (name, damage)
            assert store.restore_json("meta", EVERY)["step"] == EVERY
        corrupt, sound = said
        assert corrupt.startswith(f"checkpoint {NEWEST} is corrupt: {name} "), said
        assert corrupt.endswith(f"moved to {folder}/quarantine/{NEWEST}")
        assert sound == f"checkpoint {EVERY} is the newest sound one"
        assert runs.checkpoints(tmp_path) == [EVERY]
        assert (folder / "quarantine" / str(NEWEST)).is_dir()
    assert experiment.tries > 3 * len(DAMAGES)


def sample(step_folder):
    """Every kind of damage to the largest file, the manifest and the place in the data."""
    names = files_under(step_folder)
    largest = max(names, key=lambda name: (step_folder / name).stat().st_size)
    chosen = (largest, MANIFEST_FILE, next(n for n in names if n.startswith("data/")))
    return [(name, damage) for name in chosen for damage in DAMAGES]


def test_a_run_with_a_damaged_checkpoint_is_the_uninterrupted_run(
    ids, uninterrupted, killed, tmp_path, experiment, capsys
):
    experiment.done = "the run that goes on from the checkpoint before a damaged one"
    for number, (name, damage) in enumerate(sample(killed / "checkpoints" / str(NEWEST))):
        run_dir = tmp_path / str(number)
        shutil.copytree(killed, run_dir)
        damage(run_dir / "checkpoints" / str(NEWEST) / name)
        experiment.tries += 1
        experiment.lost(NEWEST - EVERY)
        capsys.readouterr()
        assert runs.start(ids, run_dir, KEPT) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"checkpoint {NEWEST} is corrupt: {name} " in said
        assert f"resuming at step {EVERY}" in said
        experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=STEPS)
        runs.assert_same_run(run_dir, uninterrupted, step=STEPS)
        # What was saved since is there, the step that was damaged among it.
        assert runs.checkpoints(run_dir) == [EVERY, NEWEST, STEPS]
        with CheckpointStore(run_dir / "checkpoints") as store:
            store.verify(NEWEST)
            store.verify(STEPS)
    assert runs.start(ids, run_dir, KEPT, f"training.steps={STEPS + 1}") == 0
    assert f"resuming at step {STEPS}" in capsys.readouterr().out


def test_without_a_sound_checkpoint_nothing_is_changed(ids, killed, tmp_path, experiment):
    experiment.done = "all checkpoints damaged: one error, nothing moved"
    run_dir = tmp_path / "run"
    shutil.copytree(killed, run_dir)
    for step in (EVERY, NEWEST):
        flip(run_dir / "checkpoints" / str(step) / MANIFEST_FILE)
    before = runs.contents(run_dir / "checkpoints")
    experiment.tries += 1
    with pytest.raises(OSError, match=r"(?s)No checkpoint is left to go on from"):
        runs.start(ids, run_dir, KEPT)
    assert runs.contents(run_dir / "checkpoints") == before
