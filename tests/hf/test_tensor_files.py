import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxllm.containment import contained
from jaxllm.data.tokenizer_folder import TokenizerFolder
from jaxllm.hf.tensor_files import INDEX, SINGLE, read_file, read_folder
from jaxllm.hf.tensor_writer import Tensor, write_folder

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.c": np.linspace(-1, 1, 7, dtype=np.float16),
    "d": np.array(5, np.int64),
    "e": np.zeros((0, 3), np.float32),
}


def tensors(arrays):
    return [Tensor(name, array.shape, lambda array=array: array) for name, array in arrays.items()]


def test_reads_what_the_library_writes(tmp_path):
    save_file(ARRAYS, tmp_path / SINGLE)
    entries = read_folder(tmp_path)
    assert entries.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(entries[name].array(), array)
        assert entries[name].array().dtype == array.dtype


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_library_reads_what_is_written(tmp_path, dtype):
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.full(5, 0.1, np.float32)}
    write_folder(tmp_path, tensors(arrays), dtype=np.dtype(dtype))
    for name, array in load_file(tmp_path / SINGLE).items():
        np.testing.assert_array_equal(array, arrays[name].astype(dtype))


def test_shards_have_an_index(tmp_path):
    arrays = {f"t{i}": np.full(10, i, np.float32) for i in range(5)}
    written = []
    write_folder(
        tmp_path,
        tensors(arrays),
        dtype=np.dtype(np.float32),
        max_shard_bytes=80,
        on_progress=written.append,
    )
    assert sum(written) == 200
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 200}
    assert sorted(set(index["weight_map"].values())) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    entries = read_folder(tmp_path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(entries[name].array(), array)


def test_one_file_comes_before_an_index(tmp_path):
    """As in transformers, whatever the index says."""
    save_file({"a": ARRAYS["a"]}, tmp_path / "old.safetensors")
    for named in ({"a": "old.safetensors"}, {"a": "gone.safetensors"}):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": named}))
        save_file({"b": ARRAYS["a"]}, tmp_path / SINGLE)
        assert read_folder(tmp_path).keys() == {"b"}


def test_a_truncated_file_is_named(tmp_path):
    save_file(ARRAYS, tmp_path / SINGLE)
    whole = (tmp_path / SINGLE).read_bytes()
    for size in (0, 5, 40, len(whole) - 1):
        (tmp_path / SINGLE).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors is truncated"):
            read_folder(tmp_path)


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / SINGLE).write_bytes((10).to_bytes(8, "little") + b"not json!!" + b"\0" * 30)
    with pytest.raises(ValueError, match="no safetensors file"):
        read_file(tmp_path / SINGLE)


def test_an_index_that_names_a_missing_shard(tmp_path):
    save_file({"a": ARRAYS["a"]}, tmp_path / "one.safetensors")
    named = {"a": "one.safetensors", "b": "two.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": named}))
    with pytest.raises(ValueError, match=r"not there: two\.safetensors"):
        read_folder(tmp_path)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"b": "one.safetensors"}}))
    with pytest.raises(ValueError, match="do not have them: b"):
        read_folder(tmp_path)


def entry(shape, *offsets, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


def with_header(file, header, size):
    """A file with that header, a value or its text, and so many bytes of data."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * size)
    return file


ONE = entry([2], 0, 8)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[]", "header is a list, not an object"),
        ("[" * 100_000 + "]" * 100_000, "header is no JSON: .*recursion"),
        (f'{{"a": {json.dumps(ONE)}, "a": {json.dumps(ONE)}}}', "has the same name twice: a"),
        ({"a": 5}, "says of a 5, and must give"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "says of a {"),
        ({"a": {"shape": [2], "data_offsets": [0, 8]}}, "says of a {"),
        ({"a": entry(2, 0, 8)}, "says of a {"),
        ({"a": entry([2.0], 0, 8)}, "says of a {"),
        ({"a": entry([True, 2], 0, 8)}, "says of a {"),
        ({"a": entry([-2, -1], 0, 8)}, "says of a {"),
        ({"a": entry([2], -8, 0)}, "says of a {"),
        ({"a": entry([2], "0", "8")}, "says of a {"),
        ({"a": entry([2], 0, 4, 8)}, "says of a {"),
        ({"a": entry([2], 8, 0)}, "says of a {"),
        ({"a": entry([2], 0, 8, dtype=None)}, "says of a {"),
        ({"a": entry([3], 0, 8)}, r"a of F32 and shape \[3\] needs 12 bytes and has 8"),
        ({"a": entry([2**62, 4], 0, 8)}, "needs 73786976294838206464 bytes"),
        ({"a": ONE, "b": ONE}, "a and b overlap"),
        ({"a": entry([2], 0, 6, dtype="F4"), "b": entry([1], 4, 8)}, "a and b overlap"),
        ({"a": entry([1], 4, 8)}, "the header and a have 4 bytes between that are of none"),
        ({"a": entry([1], 0, 4)}, "4 bytes behind a are of no tensor"),
        ({}, "8 bytes behind the header are of no tensor"),
    ],
)
def test_headers_that_are_damaged(tmp_path, header, message):
    file = with_header(tmp_path / "broken.safetensors", header, size=8)
    with pytest.raises(ValueError, match=rf"broken\.safetensors.*{message}"):
        read_file(file)
    if "twice" not in message:
        with pytest.raises((SafetensorError, OverflowError)):
            load_file(file)


def test_headers_that_are_right(tmp_path):
    kinds = {"b": entry([2], 0, 2, dtype="F8_E5M2"), "a": entry([3], 2, 8, dtype="I16")}
    header = {"__metadata__": {"a": "b"}, "e": entry([0, 2], 2, 2), **kinds}
    entries = read_file(with_header(tmp_path / SINGLE, header, size=8))
    assert entries["e"].problem is None
    assert entries["a"].problem == "holds whole numbers (I16), quantised in a way that is not read"
    assert entries["b"].problem == "of F8_E5M2; without scales only F64, F32, F16, BF16 are read"
    assert entries["a"].array().tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="has tensors of F8_E5M2; only F64"):
        entries["b"].array()
    assert read_file(with_header(tmp_path / SINGLE, {}, size=0)) == {}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json is no JSON"),
        ("[" * 100_000, "index.json is no JSON"),
        ("3", "index.json is a int, not an object"),
        ('{"metadata": {}}', "its weight_map must give each tensor the name of a file, and is Non"),
        ('{"weight_map": ["a"]}', r"and is \['a'\]"),
        ('{"weight_map": {"a": 1}}', "and is {'a': 1}"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "has the same name twice: a"),
        (json.dumps({"weight_map": {"a": "x" * 999}}), "files that are not there: xxx"),
    ],
)
def test_an_index_that_is_damaged(tmp_path, index, message):
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", "", ".", "a\0b"])
def test_no_file_outside_of_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="is not inside of it; copy the file there"):
        contained(tmp_path, name)
    with pytest.raises(ValueError, match="is not inside of it"):
        TokenizerFolder(tmp_path).find(name)


@pytest.mark.parametrize("name", [INDEX, SINGLE])
def test_the_first_file_is_no_link_to_elsewhere_either(tmp_path, name):
    outside, folder = tmp_path / "secret", tmp_path / "model"
    folder.mkdir()
    save_file(ARRAYS, outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(ValueError, match=r"leads to .*secret, outside of its folder; copy"):
        read_folder(folder)


def test_blobs_are_followed_only_from_the_snapshots_of_the_hub(tmp_path):
    def linked(parent):
        """A folder whose file is a link to the blobs that are two levels up."""
        folder, blobs = tmp_path / parent / "x", tmp_path / Path(parent).parent / "blobs"
        folder.mkdir(parents=True)
        blobs.mkdir(parents=True, exist_ok=True)
        save_file(ARRAYS, blobs / "0")
        for name in (SINGLE, "vocab.txt"):
            (folder / name).symlink_to(blobs / "0")
        return folder

    cached, other = linked("hub/snapshots"), linked("models/new")
    (tmp_path / "link").symlink_to(cached)
    for folder in (cached, tmp_path / "link"):
        assert read_folder(folder).keys() == ARRAYS.keys()
        assert TokenizerFolder(folder).read("vocab.txt")
    for read in (read_folder, lambda folder: TokenizerFolder(folder).find("vocab.txt")):
        with pytest.raises(ValueError, match="outside of its folder"):
            read(other)


def test_links_in_a_circle_are_no_file(tmp_path):
    (tmp_path / SINGLE).symlink_to(tmp_path / SINGLE)
    assert TokenizerFolder(tmp_path).find(SINGLE) is None
    with pytest.raises(ValueError, match="has no weights"):
        read_folder(tmp_path)


def test_links_do_not_leave_the_folder_either(tmp_path):
    outside, folder = tmp_path / "secret.safetensors", tmp_path / "model"
    folder.mkdir()
    save_file(ARRAYS, outside)
    (folder / "linked.safetensors").symlink_to(outside)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "linked.safetensors"}}))
    with pytest.raises(ValueError, match="outside"):
        read_folder(folder)


def test_pickled_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pickled weights \(pytorch_model\.bin\).*any program"):
        read_folder(tmp_path)
