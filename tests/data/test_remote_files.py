"""Files that come from a bucket and go there, while requests fail."""

import random

import pytest

from jaxllm.data.remote_files import (
    exists,
    fetch_file,
    file_sizes,
    folder_sizes,
    read_file,
    read_range,
    remove_folder,
    send_file,
)
from jaxllm.storage import as_path

LARGE = random.Random(0).randbytes(6 << 20)  # gcsfs sends more than 5 MiB in several requests


@pytest.fixture(autouse=True)
def quick(quick_retries):
    pass


@pytest.mark.parametrize("fault", [503, 429, "cut before", "cut after", "half"])
@pytest.mark.parametrize("after", [0, 1], ids=["announced", "sent"])
def test_a_large_file_arrives_whole_though_requests_fail(bucket, tmp_path, fault, after):
    (tmp_path / "large").write_bytes(LARGE)
    bucket.faults.next(fault, method="(POST|PUT)", path="upload", times=1, after=after)
    send_file(tmp_path / "large", as_path(f"{bucket.url}/a/large"))
    assert bucket.faults.count == 1
    assert bucket.files() == {"a/large": LARGE}


@pytest.mark.parametrize("fault", [503, "cut before", "half"])
def test_a_file_is_fetched_whole_though_requests_fail(bucket, tmp_path, fault):
    bucket.put("a/large", LARGE)
    bucket.faults.next(fault, method="GET", path="large", times=2)
    fetch_file(as_path(f"{bucket.url}/a/large"), tmp_path / "here" / "large")
    assert (tmp_path / "here" / "large").read_bytes() == LARGE


def test_files_here_and_there_are_told_alike(bucket, tmp_path):
    (tmp_path / "b").write_bytes(b"0123456789")
    bucket.put("a/b", b"0123456789")
    bucket.put("a/c/d", b"x")
    for folder in (tmp_path, as_path(f"{bucket.url}/a")):
        assert exists(folder / "b")
        assert not exists(folder / "no")
        assert not exists(folder / "c"), "a folder is no file"
        assert read_file(folder / "b") == b"0123456789"
        assert file_sizes([folder / "b"]) == [10]
        assert folder_sizes(folder) == {"b": 10}
        assert folder_sizes(folder / "no") == {}
        with pytest.raises(FileNotFoundError):
            read_file(folder / "no")
    assert read_range(as_path(f"{bucket.url}/a/b"), 3, 4) == b"3456"


def test_a_folder_is_removed_and_no_other(bucket):
    for name in ("a/b", "a/c/d", "ab/e"):
        bucket.put(name, b"x")
    remove_folder(as_path(f"{bucket.url}/a"))
    remove_folder(as_path(f"{bucket.url}/a"))
    assert list(bucket.files()) == ["ab/e"]


def test_a_forbidden_bucket_is_named(bucket):
    bucket.put("a", b"x")
    bucket.faults.next(403, method="GET", path=".", times=None)
    with pytest.raises(OSError, match="Forbidden"):
        exists(as_path(f"{bucket.url}/a"))
