import pytest

from jaxllm.storage.bucket import BucketFiles, Stored


@pytest.fixture
def files(bucket):
    for name in ("a", "b/c", "b/d/e", "f g/#1?x=%20"):
        bucket.put(f"folder/{name}", name.encode())
    for name in ("folder-2/a", "folder", "other"):
        bucket.put(name, b"beside it")
    return BucketFiles(f"{bucket.url}/folder/")


def test_the_names_in_a_folder(files, bucket):
    assert files.names() == ["a", "b/", "f g/"]
    assert BucketFiles(bucket.url).names() == ["folder", "folder-2/", "folder/", "other"]
    assert BucketFiles(f"{bucket.url}/none").names() == []


def test_the_objects_of_some_names_and_no_others(files):
    assert list(files.objects(["b/", "a", "missing"])) == ["b/c", "b/d/e", "a"]
    assert files.objects(["a"])["a"] == Stored(1, "DMF1ucDxtqgxw5niaXcmYQ==")


def test_a_folder_made_by_hand_is_no_object(files, bucket):
    bucket.put("folder/b/", b"")
    assert list(files.objects(["b/"])) == ["b/c", "b/d/e"]
    bucket.put("empty/", b"")
    assert BucketFiles(f"{bucket.url}/empty").names() == []


def test_objects_become_files(files, tmp_path):
    names = ["a", "b/d/e", "f g/#1?x=%20"]
    files.fetch({name: tmp_path / "new" / name for name in names})
    assert [(tmp_path / "new" / name).read_bytes() for name in names] == [
        name.encode() for name in names
    ]


def test_one_is_written_and_removed(files, bucket):
    files.send("b/new", b"content")
    assert bucket.files("folder/b")["new"] == b"content"
    files.remove("b/new")
    files.remove("b/new")
    assert "new" not in bucket.files("folder/b")


def test_passing_faults_are_tried_again(files, bucket, tmp_path, quick_retries):
    """Seed 5 has every kind of fault among these requests."""
    bucket.faults.now_and_then(0.3, seed=5)
    for number in range(10):
        files.send(f"n/{number}", b"x" * number)
    assert files.names() == ["a", "b/", "f g/", "n/"]
    names = list(files.objects(["n/"]))
    files.fetch({name: tmp_path / name for name in names})
    assert {name: (tmp_path / name).stat().st_size for name in names} == {
        f"n/{number}": number for number in range(10)
    }
    assert bucket.faults.count >= 5


@pytest.mark.parametrize("fault", [503, "cut before", "half"])
def test_what_stays_wrong_is_an_error_that_names_the_place(files, bucket, quick_retries, fault):
    bucket.faults.next(fault, times=None)
    with pytest.raises(OSError, match=f"{files.url}/a: the bucket could not be reached"):
        files.send("a", b"")
    with pytest.raises(OSError, match=f"{files.url}: the bucket could not be reached"):
        files.names()


def test_what_is_forbidden_is_an_error_at_once(files, bucket):
    bucket.faults.next(403, times=None)
    with pytest.raises(OSError, match="Forbidden"):
        files.send("a", b"")
    assert bucket.faults.count == 1


def test_a_missing_bucket_is_an_error_and_a_missing_folder_is_not(bucket):
    missing = BucketFiles("gs://no-such-bucket/folder")
    for use in (missing.names, lambda: missing.send("a", b"")):
        with pytest.raises(OSError, match="there is no such bucket"):
            use()
    with pytest.raises(ValueError, match="names no bucket"):
        BucketFiles("gs://")
