"""Checkpoints in a bucket, of an emulator: what is complete there, and what goes wrong there."""

import errno
import hashlib
import os

import numpy as np
import pytest
from orbax.checkpoint._src.path import gcs_utils
from storage.gcs_faults import ALL as FAULTS

from jaxllm.checkpoints import CheckpointCorrupt, CheckpointStore, bucket_folder, commit
from jaxllm.checkpoints.bucket_folder import COMPLETE, BucketFolder
from jaxllm.checkpoints.faults import PAUSES, numbered, system_error
from jaxllm.checkpoints.manifest import MANIFEST_FILE, find_damage
from jaxllm.checkpoints.start import RunStart
from jaxllm.storage import as_path

from .states import ONCE, asked, assert_restored, fill, open_store, save

TOP = "runs/one/checkpoints"


@pytest.fixture
def folder(bucket, quick_retries, monkeypatch):
    """The folder of the checkpoints. Nothing may ask for the kind of the bucket."""

    def refuse(_):
        raise AssertionError("that needs a right that writing does not, and another library")

    monkeypatch.setattr(gcs_utils, "get_bucket", refuse)
    return as_path(f"{bucket.url}/{TOP}")


FILES = {}


@pytest.fixture
def two(bucket, folder):
    """The folder with checkpoints of steps 2 and 4, which are written once for all tests."""
    if not FILES:
        fill(folder, 2, 4)
        FILES.update(bucket.files())
    for name, content in FILES.items():
        bucket.put(name, content)
    return folder


def steps_in(bucket):
    """The steps that any object is under."""
    return sorted({name.partition("/")[0] for name in bucket.files(TOP)})


def largest(bucket, step):
    """The name of the largest file of a step."""
    files = bucket.files(f"{TOP}/{step}")
    return max(files, key=lambda name: len(files[name]))


def test_what_is_saved_comes_back_and_old_ones_are_deleted(bucket, folder):
    # A longer number is another step, for all that their names begin alike.
    for steps in ((1, 2), (3, 30)):
        with open_store(folder, keep_latest=1, keep_best=1) as store:
            for step in steps:
                save(store, step, validation_loss=float(step))
    assert steps_in(bucket) == ["1", "30"]
    assert_restored(folder, 1, 30)
    for step in (1, 30):
        assert {MANIFEST_FILE, COMPLETE} < set(bucket.files(f"{TOP}/{step}"))
        assert find_damage(folder / str(step)) is None


def test_an_empty_folder_has_no_checkpoints(folder):
    with CheckpointStore(folder) as store:
        assert store.latest_step() is None
    with open_store(folder) as store:
        assert store.steps() == []


def test_what_makes_a_step_complete_comes_after_all_that_the_manifest_names(
    bucket, folder, monkeypatch
):
    seen = []

    def seal(step):
        before = bucket.files(f"{TOP}/{step.name}")
        SEAL(step)
        seen.append((before, bucket.files(f"{TOP}/{step.name}")))

    monkeypatch.setattr(commit, "_seal", seal)
    fill(folder, 1)
    ((before, after),) = seen
    assert set(after) - set(before) == {MANIFEST_FILE}
    final = bucket.files(f"{TOP}/1")
    assert set(final) - set(after) == {COMPLETE}
    assert {name: final[name] for name in after} == after


SEAL = commit._seal


def test_what_a_killed_save_left_is_no_checkpoint_and_the_step_can_be_saved_again(bucket, two):
    bucket.remove(f"{TOP}/4/{COMPLETE}")
    stale = f"{TOP}/4/params/d/of-the-killed-save"
    bucket.put(stale, b"stale")
    before = bucket.files(TOP)
    with CheckpointStore(two) as store:
        assert store.steps() == [2]
    assert bucket.files(TOP) == before, "who only reads removes nothing: a run may be writing it"
    said = []
    with open_store(two, said) as store:
        assert store.latest_step() == 2
        assert steps_in(bucket) == ["2"]
        save(store, 4)
    assert said == []
    assert_restored(two, 2, 4)
    assert stale.removeprefix(TOP + "/") not in bucket.files(TOP)


def test_what_is_left_of_a_save_under_way_does_not_reach_into_the_next(bucket, two):
    """As when a start could not remove it, or it came after that."""
    with open_store(two, keep_latest=9) as store:
        bucket.put(f"{TOP}/6/params/manifest.ocdbt", b"stale")
        save(store, 6)
    assert_restored(two, 2, 4, 6)


def test_what_is_damaged_is_moved_with_all_its_bytes_and_the_one_before_is_used(bucket, two):
    """Twice, as the run goes on and saves that step again."""
    for how, aside in (("flipped", "quarantine/4"), ("deleted", "quarantine/4-1")):
        name = largest(bucket, 4) if how == "flipped" else MANIFEST_FILE
        content = bytearray(bucket.files(f"{TOP}/4")[name])
        bucket.remove(f"{TOP}/4/{name}")
        if how == "flipped":
            content[len(content) // 3] ^= 16
            bucket.put(f"{TOP}/4/{name}", bytes(content))
        files = bucket.files(f"{TOP}/4")
        said = []
        with open_store(two, said, keep_latest=9) as store:
            assert store.steps() == [2]
            assert said[0].startswith(f"checkpoint 4 is corrupt: {name} ")
            assert said[0].endswith(f"moved to {two}/{aside}")
            assert said[1] == "checkpoint 2 is the newest sound one"
            assert bucket.files(f"{TOP}/{aside}") == files
            save(store, 4)
        assert_restored(two, 2, 4)


def test_who_only_reads_is_told_and_changes_nothing(bucket, two):
    name = largest(bucket, 4)
    bucket.put(f"{TOP}/4/{name}", bucket.files(f"{TOP}/4")[name][:-1])
    before = bucket.files(TOP)
    with CheckpointStore(two) as store:
        with pytest.raises(CheckpointCorrupt, match=f"checkpoint 4 is corrupt: {name} has "):
            store.restore(4, "params", asked(ONCE))
        assert store.restore_json("meta", 2) == {"step": 2}
    assert bucket.files(TOP) == before


def test_an_older_one_is_looked_at_and_without_a_sound_one_nothing_begins(bucket, two):
    bucket.remove(f"{TOP}/2/{largest(bucket, 2)}")
    said = []
    open_store(two, said).__exit__()
    assert [line.split(":")[0] for line in said][:1] == ["checkpoint 2 is corrupt"]
    bucket.remove(f"{TOP}/4/{largest(bucket, 4)}")
    before = bucket.files(TOP)
    with pytest.raises(CheckpointCorrupt, match="No checkpoint is left"):
        open_store(two)
    assert bucket.files(TOP) == before


def test_after_a_rollback_saves_land(bucket, two):
    with open_store(two, keep_latest=9) as store:
        save(store, 6)
        store.roll_back(2)
        assert store.steps() == [2]
        assert steps_in(bucket) == ["2"]
        save(store, 4)
    assert_restored(two, 2, 4)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("delete", "left"),
    [
        (lambda folder: open_store(folder).roll_back(2), 2),
        (lambda folder: gcs_utils.rmtree(folder / "2"), 4),  # how Orbax deletes old ones
    ],
    ids=["rollback", "retention"],
)
def test_a_deletion_killed_midway_leaves_nothing_that_looks_like_a_checkpoint(
    bucket, two, monkeypatch, delete, left
):
    def die(self):
        self.remove(COMPLETE)
        self.remove(MANIFEST_FILE)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(BucketFolder, "remove_all", die)
        with pytest.raises(Killed):
            delete(two)
    assert steps_in(bucket) == ["2", "4"]
    said = []
    open_store(two, said).__exit__()
    assert said == []
    assert steps_in(bucket) == [str(left)]
    assert_restored(two, left)


@pytest.mark.parametrize("num_removed", [0, 1])
def test_what_makes_it_complete_is_removed_first(bucket, two, num_removed):
    """Whichever request the removal ends at."""
    bucket.faults.next(403, method="DELETE", times=None, after=num_removed)
    with pytest.raises(OSError, match="Forbidden") as refused:
        gcs_utils.rmtree(two / "2")
    assert refused.value.errno == errno.EACCES
    bucket.faults.clear()
    assert (COMPLETE in bucket.files(f"{TOP}/2")) == (num_removed == 0)
    assert_restored(two, *([2, 4] if num_removed == 0 else [4]))


# TensorStore waits for a second before it tries again. Its files' own uploads in several requests
# gcsfs cannot be made to repeat here: Python before 3.12.2 may crash on what they leave behind
# (https://github.com/python/cpython/issues/111049).
OF_GCSFS = "^(?!.*(tensorstore=|uploadType=media))"


def test_faults_now_and_then_are_tried_again(bucket, folder):
    """Of every kind, and one of TensorStore's requests."""
    for number in range(30):
        kind = FAULTS[number % len(FAULTS)]
        bucket.faults.next(kind, path=OF_GCSFS, after=11 * number)
    bucket.faults.next(503, path="uploadType=media", after=3)
    said, paused = [], []
    with open_store(folder, said, paused) as store:
        save(store, 1)
        save(store, 2)
    assert_restored(folder, 1, 2)
    assert bucket.faults.count == 31
    assert (said, paused) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_faults_anywhere_are_tried_again(bucket, folder, seed):
    said, paused = [], []
    bucket.faults.now_and_then(0.1, seed=seed)
    with open_store(folder, said, paused, keep_latest=2) as store:
        for step in (1, 2, 3):
            save(store, step)
    assert_restored(folder, 2, 3)
    assert bucket.faults.count > 10
    assert (said, paused) == ([], [])
    assert steps_in(bucket) == ["2", "3"]


def test_a_fault_that_lasts_longer_costs_a_pause_and_then_a_line(bucket, two):
    """After gcsfs has given up: the manifest cannot be written, for a while or ever."""
    said, paused = [], []

    def sleep(seconds):
        paused.append(seconds)
        if len(paused) == 2:
            bucket.faults.clear()

    with open_store(two, said, keep_latest=9, on_error="continue") as store:
        store._writer._sleep = sleep
        for step in (6, 8):
            bucket.faults.next(503, method="POST", path="uploadType=multipart", times=None)
            save(store, step)
            store.settle()
        assert paused == [*PAUSES, *PAUSES]
        assert said == [
            "step 8 was not saved, training goes on: a checkpoint could not be written "
            f"({os.strerror(errno.EAGAIN)})"
        ]
        bucket.faults.clear()
        save(store, 10)
    assert_restored(two, 2, 4, 6, 10)
    assert steps_in(bucket) == ["10", "2", "4", "6"]


@pytest.mark.parametrize("status", [403, 502])
def test_a_folder_that_cannot_be_listed_is_not_one_without_checkpoints(bucket, two, status):
    """A run would begin anew."""
    bucket.faults.next(status, method="GET", path=r"/o\?", times=None)
    for use in (lambda: open_store(two), lambda: CheckpointStore(two), BucketFolder(two).steps):
        with pytest.raises(OSError) as raised:
            use()
        assert raised.value.errno == (errno.EACCES if status == 403 else errno.ECONNRESET)


def test_what_tensorstore_says_of_a_service_has_a_number(bucket):
    import tensorstore

    retries = {"gcs_request_retries": {"max_retries": 1, "initial_delay": "1ms"}}
    context = tensorstore.Context(retries)
    store = tensorstore.KvStore.open(f"{bucket.url}/a/", context=context).result()
    for fault, code in NUMBERS.items():
        bucket.faults.next(fault, times=None)
        with pytest.raises(ValueError) as raised:
            store.write("b", b"c").result()
        assert system_error(raised.value) == code
        bucket.faults.clear()


NUMBERS = {
    401: errno.EACCES,
    403: errno.EACCES,
    429: errno.EAGAIN,
    503: errno.EAGAIN,
    "cut before": errno.ECONNRESET,
}


def test_what_gcsfs_says_has_a_number_and_a_missing_object_is_missing(bucket, folder):
    for fault, code in NUMBERS.items():
        bucket.faults.next(fault, times=None)
        with pytest.raises(OSError) as raised:
            BucketFolder(folder).read("file")
        assert raised.value.errno == code
        bucket.faults.clear()
    with pytest.raises(FileNotFoundError):
        BucketFolder(folder).read("file")
    with pytest.raises(ZeroDivisionError), numbered():
        _ = 1 / 0


def test_a_folder_knows_its_objects_and_no_others(bucket, folder, monkeypatch):
    """Neither those of a longer name, nor what a console makes for an empty folder."""
    monkeypatch.setattr(bucket_folder, "_PIECE", 7)
    contents = {"4/a": bytes(range(50)), "4/b/c": b"", "4/b/d": b"1234567", "44/a": b""}
    for name, content in contents.items() | {("", b""), ("4/", b""), ("4/b/", b"")}:
        bucket.put(f"{TOP}/{name}", content)
    four = BucketFolder(folder / "4")
    assert four.names() == ["a", "b/c", "b/d"]
    for name in four.names():
        content = contents[f"4/{name}"]
        assert four.digest(name) == (len(content), hashlib.sha256(content).hexdigest())
    versions = [four.version(name) for name in ("a", "missing")]
    bucket.put(f"{TOP}/4/a", contents["4/a"])
    assert BucketFolder(folder / "4").version("a") != versions[0]
    assert versions[1] is None
    assert BucketFolder(folder).steps() == []
    bucket.put(f"{TOP}/44/{COMPLETE}", b"")
    assert BucketFolder(folder).steps() == [44]


def test_a_run_starts_from_the_weights_of_one_in_a_bucket(bucket, folder):
    bucket.put("runs/one/config.yaml", b"model: {type: decoder}")
    with open_store(folder) as store:
        save(store, 3, {"weights": ONCE})
    start = RunStart(path=f"{bucket.url}/runs/one")
    assert start.model() == {"type": "decoder"}
    np.testing.assert_array_equal(start.weights(asked(ONCE))["w"], ONCE["w"])
    with pytest.raises(ValueError, match="is no run folder"):
        RunStart(path=f"{bucket.url}/runs").model()


def test_a_small_save_asks_the_service_a_bounded_number_of_times(bucket, two):
    """Each request has a price and a latency; a loop over steps would show here."""
    counts = []
    with open_store(two, keep_latest=99) as store:
        for step in (5, 6, 7):
            bucket.requests.clear()
            save(store, step)
            store.wait()
            counts.append(len(bucket.requests))
    # About 180, three quarters of them Orbax's own. Its threads ask a few times more or less.
    assert max(counts) < 220
    assert max(counts) - min(counts) < 20
