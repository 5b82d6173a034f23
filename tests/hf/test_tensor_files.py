import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.hf.tensor_files import (
    INDEX,
    SINGLE,
    Tensor,
    inside,
    read_file,
    read_folder,
    write_folder,
)

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


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", ""])
def test_no_file_outside_of_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="outside"):
        inside(tmp_path, name)


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
