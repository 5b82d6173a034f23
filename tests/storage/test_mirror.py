import os
import threading

import pytest

from jaxllm.storage.mirror import Mirror, Sending, mirror_folder, read_origin

NAMES = ("config", "log", "tokenizer/", "summary")


@pytest.fixture
def make(bucket, tmp_path):
    """Mirrors of gs://.../run, each of another machine."""

    def mirror(machine="one"):
        return Mirror(
            f"{bucket.url}/run",
            tmp_path / machine / "run",
            names=NAMES,
            first="config",
            last=("config", "summary"),
        )

    return mirror


def here(mirror):
    """The files of a mirror with what is in them, but for those of this machine alone."""
    return {
        path.relative_to(mirror.folder).as_posix(): path.read_bytes()
        for path in mirror.folder.rglob("*")
        if path.is_file() and path.name not in ("origin", ".lease")
    }


def write(mirror, files):
    for name, content in files.items():
        path = mirror.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


RUN = {"config": b"c", "log": b"1\n2\n", "tokenizer/a": b"t", "tokenizer/b/c": b"u"}


def test_what_one_sends_another_brings_down(make, bucket):
    one, two = make("one"), make("two")
    assert one.bring_down() == []
    assert here(one) == {}
    write(one, RUN)
    one.send()
    assert bucket.files("run") == RUN
    assert two.bring_down() == []
    assert here(two) == RUN
    assert read_origin(two.folder) == one.url
    assert read_origin(two.folder.parent) is None


def test_only_what_changed_is_sent_and_a_file_that_grew_as_a_whole(make, bucket):
    one = make()
    one.bring_down()
    write(one, RUN)
    one.send()
    bucket.requests.clear()
    one.send()
    assert not bucket.requests
    with (one.folder / "log").open("ab") as log:
        log.write(b"3\n")
    one.send()
    assert len(bucket.requests) == 1
    assert bucket.files("run")["log"] == b"1\n2\n3\n"


def test_a_file_of_the_same_size_and_time_that_was_replaced_is_sent(make, bucket):
    one = make()
    one.bring_down()
    write(one, RUN)
    one.send()
    log = one.folder / "log"
    status = log.stat()
    (one.folder / "new").write_bytes(b"5\n6\n")
    os.utime(one.folder / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(one.folder / "new", log)
    one.send()
    assert bucket.files("run")["log"] == b"5\n6\n"


def test_what_was_brought_down_is_not_sent_again_nor_brought_again(make, bucket):
    one, two = make("one"), make("two")
    one.bring_down()
    write(one, RUN)
    one.send()
    two.bring_down()
    bucket.requests.clear()
    two.send()
    assert not bucket.requests
    two.bring_down()
    assert not [line for line in bucket.requests if "alt=media" in line]


def test_the_bucket_is_the_truth(make, bucket):
    """What is here and not there goes away, also folders and what a killed start left."""
    one = make()
    one.bring_down()
    write(one, RUN | {".lease": b"mine"})
    one.send()
    write(one, {"log": b"1\n2\nonly here\n", "more": b"", "tokenizer/x/y": b"", "profile/a": b""})
    write(one, {".log.tmp": b"", ".tokenizer.partial/a": b""})
    one.bring_down()
    assert here(one) == RUN
    assert not (one.folder / "profile").exists()
    assert not (one.folder / "tokenizer" / "x").exists()
    assert not list(one.folder.glob(".*.*"))
    assert (one.folder / ".lease").read_bytes() == b"mine"
    bucket.remove("run/log")
    one.bring_down()
    assert "log" not in here(one)


def test_what_is_gone_here_goes_there_and_nothing_else_does(make, bucket):
    bucket.put("run/report.html", b"")
    bucket.put("run/checkpoints/3/a", b"")
    one = make()
    one.bring_down()
    write(one, RUN)
    one.send()
    (one.folder / "log").unlink()
    (one.folder / "tokenizer" / "a").unlink()
    one.send()
    assert set(bucket.files("run")) == {
        *("config", "tokenizer/b/c", "report.html", "checkpoints/3/a"),
    }


def test_files_with_a_dot_and_the_origin_stay_here(make, bucket):
    one = make()
    one.bring_down()
    write(one, {"config": b"", ".lease": b"", ".log.tmp": b"", ".partial/a": b"", "b/.tmp": b""})
    one.send()
    assert bucket.files("run") == {"config": b""}


def test_other_things_there_are_told_and_left_alone(make, bucket):
    for name in ("config", "report.html", "checkpoints/3/large"):
        bucket.put(f"run/{name}", b"x")
    one = make()
    assert one.bring_down() == ["checkpoints/", "report.html"]
    assert here(one) == {"config": b"x"}
    assert not [line for line in bucket.requests if "large" in line or "/checkpoints" in line]


def test_the_last_files_are_sent_last(make, bucket):
    """A kill leaves no config beside half a tokenizer, and no summary without all else."""
    states = bucket.states()
    one = make()
    one.bring_down()
    write(one, RUN | {"summary": b"s", "z": b""})
    one.send()
    sent = [set(now) - set(before) for before, now in zip([{}, *states], states, strict=False)]
    assert [name for (name,) in sent][-2:] == ["run/config", "run/summary"]
    assert len(sent) == 6


def test_without_its_first_file_a_folder_is_new_and_its_rest_is_replaced(make, bucket):
    """As a first start leaves it that was killed while it sent the tokenizer."""
    for name in ("tokenizer/a", "tokenizer/old", "log"):
        bucket.put(f"run/{name}", b"half")
    one = make()
    one.bring_down()
    assert here(one) == {}
    assert not (one.folder / "tokenizer").exists()
    write(one, RUN)
    one.send()
    assert bucket.files("run") == RUN


def test_passing_faults_are_tried_again(make, bucket, quick_retries):
    bucket.faults.now_and_then(0.2, seed=1)
    one, two = make("one"), make("two")
    one.bring_down()
    files = RUN | {f"tokenizer/{number}": bytes(number) for number in range(20)}
    write(one, files)
    one.send()
    two.bring_down()
    assert here(two) == files
    assert bucket.faults.count >= 5


def test_what_could_not_be_sent_is_sent_the_next_time(make, bucket, quick_retries):
    one = make()
    one.bring_down()
    write(one, RUN)
    bucket.faults.next(503, method="POST", times=None, after=2)
    with pytest.raises(OSError, match="the bucket could not be reached"):
        one.send()
    assert len(bucket.files("run")) == 2
    bucket.faults.clear()
    one.send()
    assert bucket.files("run") == RUN


def test_a_large_file_goes_up_and_comes_down(make, bucket):
    one, two = make("one"), make("two")
    one.bring_down()
    large = os.urandom(7 << 20)
    write(one, {"config": b"", "log": large})
    one.send()
    two.bring_down()
    assert (two.folder / "log").read_bytes() == large


@pytest.fixture
def said():
    return []


def test_sending_goes_on_in_the_background_and_ends_with_all(make, bucket, said):
    one = make()
    one.bring_down()
    arrived = threading.Event()
    states = bucket.states()
    with Sending(one, say=said.append, interval=0.01):
        write(one, {"config": b"c", "log": b"1\n"})
        while not states or "run/config" not in states[-1]:
            arrived.wait(0.01)
    with Sending(one, say=said.append, interval=1e6):
        write(one, {"log": b"1\n2\n", "summary": b"s"})
    assert bucket.files("run") == {"config": b"c", "log": b"1\n2\n", "summary": b"s"}
    assert not said


def test_an_outage_is_said_once_and_its_end_too(make, bucket, said, quick_retries):
    one = make()
    one.bring_down()
    write(one, RUN)
    sending = Sending(one, say=said.append, interval=1e6)
    bucket.faults.next(503, times=None)
    with sending:
        sending.try_to_send()
        sending.try_to_send()
        bucket.faults.clear()
        sending.try_to_send()
        sending.try_to_send()
    assert [line.partition(":")[0] for line in said] == [
        "the run folder is not sent up, and tried again",
        f"the run folder is sent up to {one.url.partition(':')[0]}",
    ]
    assert bucket.files("run") == RUN


def test_what_is_missing_at_the_end_is_an_error(make, bucket, said, quick_retries):
    one = make()
    one.bring_down()
    bucket.faults.next(503, method="POST", times=None)
    with (
        pytest.raises(OSError, match="could not be reached"),
        Sending(one, say=said.append, interval=1e6),
    ):
        write(one, RUN)


def test_an_error_of_the_run_is_told_before_one_of_sending(make, bucket, said, quick_retries):
    one = make()
    one.bring_down()
    bucket.faults.next(503, method="POST", times=None)
    write(one, RUN)
    with pytest.raises(ZeroDivisionError), Sending(one, say=said.append, interval=1e6):
        raise ZeroDivisionError
    assert len(said) == 1


def test_each_process_and_each_run_has_a_mirror_of_its_own(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    urls = ("gs://a/runs/one", "gs://b/runs/one", "gs://a/runs/two")
    folders = {mirror_folder(url, process) for url in urls for process in (0, 1)}
    assert len(folders) == 6
    for folder in folders:
        assert folder.is_relative_to("/cache/jaxllm/runs")
        assert folder.name in ("one", "two"), "as trackers show it"
    assert mirror_folder("gs://a/runs/one/") == mirror_folder("gs://a/runs/one")
