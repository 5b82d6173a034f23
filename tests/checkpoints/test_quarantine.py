import shutil

import pytest

from jaxllm.checkpoints import CheckpointCorrupt, CheckpointStore, agreement, quarantine
from jaxllm.checkpoints.manifest import MANIFEST_FILE, files_under
from jaxllm.checkpoints.quarantine import LATE_VIEW, keep_sound

from .states import ONCE, asked, assert_restored, break_file, contents, fill, open_store, save


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The checkpoints of steps 2, 4 and 6. Read them only."""
    folder = tmp_path_factory.mktemp("three")
    fill(folder, 2, 4, 6)
    return folder


@pytest.fixture
def folder(three, tmp_path):
    return shutil.copytree(three, tmp_path / "checkpoints")


@pytest.mark.parametrize("how", ["deleted", "truncated", "flipped"])
def test_every_file_of_the_newest_is_watched(folder, how):
    """Each in turn: found, named, moved aside with all else of its step, the one before used."""
    names = files_under(folder / "6")
    assert {"MANIFEST", "_CHECKPOINT_METADATA", "commit_success.txt", "data/metadata"} < set(names)
    for name in names:
        said = []
        whole = (folder / "6" / name).read_bytes()
        break_file(folder / "6" / name, how)
        left = contents(folder / "6")
        assert keep_sound(folder, say=said.append, sleep=pytest.fail) == 4
        moved = folder / "quarantine" / "6"
        assert said[0].startswith(f"checkpoint 6 is corrupt: {name} ")
        assert said[0].endswith(f"moved to {moved}")
        assert said[1] == "checkpoint 4 is the newest sound one"
        assert list(contents(moved).values()) == list(left.values())
        moved.rename(folder / "6")
        (folder / "6" / name).write_bytes(whole)
    assert keep_sound(folder, say=pytest.fail, sleep=pytest.fail) == 6


def test_after_falling_back_saves_land(folder):
    """Those of the step that was corrupt, too, and it may be corrupt again."""
    for round_, moved in enumerate((["6"], ["6", "6-1"])):
        break_file(folder / "6" / "params" / "manifest.ocdbt", "flipped")
        said = []
        with open_store(folder, said, keep_latest=3) as store:
            assert store.steps() == [2, 4]
            assert store.restore_json("data", store.latest_step()) == {"next_row": 32}
            save(store, 5)
            save(store, 6)
            store.wait()
        assert len(said) == 2
        assert sorted(path.name for path in (folder / "quarantine").iterdir()) == moved
        assert_restored(folder, 4, 5, 6)
        if round_ == 0:
            shutil.rmtree(folder / "5")
            fill(folder / "spare", 2)
            shutil.move(folder / "spare" / "2", folder / "2")


def test_without_a_sound_checkpoint_nothing_is_touched_and_nothing_begins(folder):
    for step, how in ((2, "truncated"), (4, "flipped"), (6, "deleted")):
        break_file(folder / str(step) / "opt" / "_METADATA", how)
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(CheckpointCorrupt, match="No checkpoint is left") as refusal:
            open_store(folder)
        assert sorted(refusal.value.damages) == [2, 4, 6]
        for step in (2, 4, 6):
            assert f"checkpoint {step} is corrupt: opt/_METADATA" in str(refusal.value)
        assert contents(folder) == before


def test_what_retention_half_deleted_is_no_checkpoint(folder):
    (folder / "2" / MANIFEST_FILE).unlink()
    shutil.rmtree(folder / "2" / "params")
    shutil.rmtree(folder / "4" / "params" / "d")
    assert_steps_read(folder, [4, 6])
    said = []
    with open_store(folder, said) as store:
        assert store.steps() == [6]
    assert [line.split(";")[0].split(":")[0] for line in said] == [
        "checkpoint 2 is corrupt",
        "checkpoint 4 is corrupt",
        "checkpoint 6 is the newest sound one",
    ]
    assert_restored(folder, 6)


def assert_steps_read(folder, steps):
    with CheckpointStore(folder) as store:
        assert store.steps() == steps


def test_who_only_reads_is_told_and_moves_nothing(folder):
    break_file(folder / "6" / "params" / "_sharding", "flipped")
    before = contents(folder)
    with CheckpointStore(folder) as store:
        for use in (
            lambda: store.verify(6),
            lambda: store.restore(6, "params", asked(ONCE)),
            lambda: store.restore_json("meta", 6),
            lambda: store.has_average(6),
        ):
            with pytest.raises(CheckpointCorrupt, match="checkpoint 6 is corrupt: params/_shard"):
                use()
        assert store.restore_json("meta", 4) == {"step": 4}
    assert contents(folder) == before


def test_after_a_rollback_saves_land(folder):
    with open_store(folder, keep_latest=9) as store:
        save(store, 8)
        store.roll_back(4)
        assert store.steps() == [2, 4]
        save(store, 6)
        save(store, 7)
    assert_restored(folder, 2, 4, 6, 7)
    assert not (folder / "quarantine").exists()


def test_a_rollback_to_what_is_not_there_or_not_sound_deletes_nothing(folder):
    break_file(folder / "2" / "data" / "metadata", "flipped")
    with open_store(folder) as store:
        # Damaged as it is, 2 was moved aside.
        with pytest.raises(ValueError, match=r"no checkpoint of step 2; it has \[4, 6\]"):
            store.roll_back(2)
        break_file(folder / "4" / "data" / "metadata", "flipped")
        before = contents(folder)
        with pytest.raises(CheckpointCorrupt, match="checkpoint 4 is corrupt: data/metadata"):
            store.roll_back(4)
        assert contents(folder) == before


def test_a_rollback_killed_midway_leaves_whole_checkpoints_or_none(folder, monkeypatch):
    class Killed(BaseException):
        pass

    def die(path, **_):
        (path / MANIFEST_FILE).unlink()
        raise Killed

    store = open_store(folder)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            store.roll_back(2)
    said = []
    open_store(folder, said).__exit__()
    assert said == []
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    assert_restored(folder, 2, 4)


@pytest.fixture
def three_processes(monkeypatch):
    """This is the first of three, and the others find all their files."""
    for module in (quarantine, agreement):
        monkeypatch.setattr(module, "gathered", lambda text: [text, "", ""])
    monkeypatch.setattr(quarantine.jax, "process_count", lambda: 3)


def test_what_another_process_wrote_may_be_seen_late(folder, tmp_path, three_processes):
    """Neither the newest checkpoint nor an older one is set aside for it."""
    missing = [folder / "6" / MANIFEST_FILE, folder / "4" / files_under(folder / "4")[5]]
    away = tmp_path / "away"
    away.mkdir()
    for number, path in enumerate(missing):
        path.rename(away / str(number))
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) in (2, 3):
            (away / str(len(slept) - 2)).rename(missing[len(slept) - 2])

    assert keep_sound(folder, say=pytest.fail, sleep=sleep) == 6
    assert slept == [*LATE_VIEW[:2], LATE_VIEW[0]]


def test_what_stays_missing_is_damage_and_other_bits_are_so_at_once(folder, three_processes):
    name = files_under(folder / "6")[0]  # of this process's share
    (folder / "6" / name).unlink()
    said, slept = [], []
    assert keep_sound(folder, say=said.append, sleep=slept.append) == 4
    assert slept == list(LATE_VIEW)
    assert said[0].startswith(f"checkpoint 6 is corrupt: {name} is missing")
    break_file(folder / "4" / MANIFEST_FILE, "flipped")
    assert keep_sound(folder, say=said.append, sleep=pytest.fail) == 2
