"""That gcsfs, epath and TensorStore find what they wrote in the emulator, as in the service."""

import numpy as np
import pytest
import tensorstore

from jaxllm.storage import as_path


@pytest.fixture
def folder(bucket):
    return as_path(f"{bucket.url}/folder")


def test_a_path_is_written_listed_read_and_removed(bucket, folder):
    (folder / "b" / "two.txt").write_text("two")
    (folder / "one.bin").write_bytes(bytes(range(256)))
    assert bucket.files("folder") == {"b/two.txt": b"two", "one.bin": bytes(range(256))}
    assert sorted(path.name for path in folder.iterdir()) == ["b", "one.bin"]
    assert (folder / "b").is_dir()
    assert not (folder / "b").is_file()
    assert (folder / "one.bin").read_bytes() == bytes(range(256))
    assert (folder / "one.bin").stat().length == 256
    (folder / "b").rmtree()
    assert not (folder / "b").exists()
    assert bucket.files("folder") == {"one.bin": bytes(range(256))}


def test_a_folder_gets_another_name(bucket, folder):
    for name in ("a", "b/c"):
        (folder / "old" / name).write_text(name)
    (folder / "old").rename(folder / "new")
    assert bucket.files("folder") == {"new/a": b"a", "new/b/c": b"b/c"}


def test_a_large_file_goes_up_in_pieces(bucket, folder, tmp_path):
    content = bytes(range(256)) * (6 << 12)  # 6 MiB, beyond one request of gcsfs
    (tmp_path / "large").write_bytes(content)
    folder._backend.fs(folder).put_file(str(tmp_path / "large"), str(folder / "large"))
    assert bucket.files("folder") == {"large": content}
    with (folder / "streamed").open("wb") as file:
        file.write(content)
    assert bucket.files("folder")["streamed"] == content


def test_a_listing_is_complete_over_pages(bucket, folder):
    names = [f"{folder_name}/{number:04}" for folder_name in "abc" for number in range(700)]
    for name in [*names, "last"]:
        bucket.put(f"folder/{name}", b"")
    found = folder._backend.fs(folder).find(str(folder))
    assert [path.partition("folder/")[2] for path in found] == [*names, "last"]
    assert len([line for line in bucket.requests if "pageToken" in line]) == 2


def test_a_listing_with_a_delimiter_is_complete_over_pages(bucket, gcs_emulator):
    for name in ("a/1", "a/2", "b", "c/1", "d"):
        bucket.put(name, b"")
    query, seen = {"delimiter": "/", "maxResults": "1"}, []
    while True:
        page = gcs_emulator.objects.list(bucket.name, query)
        seen += page.get("prefixes", []) + [item["name"] for item in page.get("items", [])]
        if "nextPageToken" not in page:
            break
        query["pageToken"] = page["nextPageToken"]
    assert seen == ["a/", "b", "c/", "d"]


def test_tensorstore_writes_reads_lists_and_keeps_conditions(bucket):
    store = tensorstore.KvStore.open(f"{bucket.url}/arrays/").result()
    large = bytes(3 << 20)  # curl asks first whether it may send so much
    first = store.write("a", large).result()
    store.write("deep/b", b"0123456789").result()
    assert bucket.files("arrays") == {"a": large, "deep/b": b"0123456789"}
    assert store.read("a").result().value == large
    assert store["deep/b"] == b"0123456789"
    assert sorted(store.list().result()) == [b"a", b"deep/b"]
    assert store.write("a", b"newer", if_equal=first.generation).result().generation
    # Whoever knows an older generation writes nothing.
    assert not store.write("a", b"mine", if_equal=first.generation).result().generation
    assert bucket.files("arrays")["a"] == b"newer"
    store.delete_range(tensorstore.KvStore.KeyRange("a", "b")).result()
    assert list(bucket.files("arrays")) == ["deep/b"]


def test_an_array_is_restored_from_a_bucket(bucket):
    spec = {"driver": "zarr", "kvstore": f"{bucket.url}/array/"}
    array = np.arange(5000, dtype=np.float32).reshape(50, 100)
    kind = {"create": True, "dtype": array.dtype, "shape": array.shape}
    tensorstore.open(spec, **kind).result().write(array).result()
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result(), array)


def test_a_range_of_an_object(bucket):
    bucket.put("digits", b"0123456789")
    path = as_path(f"{bucket.url}/digits")
    with path.open("rb") as file:
        file.seek(4)
        assert file.read(3) == b"456"
    assert path._backend.fs(path).cat_file(str(path), start=-3) == b"789"


@pytest.mark.parametrize("kind", [429, 503, "cut before", "half"])
def test_a_fault_is_tried_again(bucket, folder, quick_retries, kind):
    (folder / "file").write_text("content")
    bucket.faults.next(kind, method="GET", times=2)
    assert (folder / "file").read_text() == "content"
    assert bucket.faults.count == 2


def test_an_upload_whose_answer_was_lost_is_there(bucket, folder, quick_retries):
    bucket.faults.next("cut after", method="POST")
    (folder / "file").write_text("content")
    assert bucket.files("folder") == {"file": b"content"}
    assert bucket.faults.count == 1


def test_what_goes_wrong_now_and_then_repeats_by_its_seed(bucket):
    def kinds(seed):
        bucket.faults.clear()
        bucket.faults.now_and_then(0.3, seed=seed)
        return [bucket.faults.of("GET", "/") for _ in range(100)]

    assert kinds(1) == kinds(1) != kinds(2)
    assert {429, 503, "half", None} < set(kinds(1))
