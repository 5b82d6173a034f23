"""Weights of 8 bits with scales of blocks, in folders that the tests write themselves."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxllm.hf.block_scales import BlockSize, read_block_size, with_scales
from jaxllm.hf.model import load_model, save_model
from jaxllm.hf.tensor_files import read_folder
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

from .published import published

DTYPES = {"float8_e4m3fn": "F8_E4M3", "float32": "F32", "bfloat16": "BF16", "int32": "I32"}


def write(folder, raw, tensors):
    """A model folder, written as the format describes it: the library has no word for 8 bits."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    header, data = {}, b""
    for name, array in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": list(array.shape)}
        header[name]["data_offsets"] = offsets
        data += array.tobytes()
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def says(block, **more):
    """What config.json says of weights with such blocks."""
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": list(block),
        "activation_scheme": "dynamic",
        **more,
    }


def quantised(theirs, block, *, scale_dtype=np.float32):
    """The tensors as published, the projections of blocks in 8 bits; and what they stand for."""
    stored, plain = {}, {}
    for name, values in theirs.items():
        if values.ndim != 2 or "_proj" not in name:
            stored[name] = plain[name] = values
            continue
        scales = np.zeros([-(-n // size) for n, size in zip(values.shape, block, strict=True)])
        scales = scales.astype(scale_dtype)
        eight = np.zeros(values.shape, ml_dtypes.float8_e4m3fn)
        restored = np.zeros(values.shape, np.float32)
        for i, j in np.ndindex(*scales.shape):
            at = tuple(slice(k * b, (k + 1) * b) for k, b in zip((i, j), block, strict=True))
            scales[i, j] = np.abs(values[at]).max() / 448
            eight[at] = values[at] / np.float32(scales[i, j])
            restored[at] = eight[at].astype(np.float32) * np.float32(scales[i, j])
        stored |= {name: eight, f"{name}_scale_inv": scales}
        plain[name] = restored
    return stored, plain


# Sizes are 48, 36, 97 and the like: whole blocks and partial ones, one block, and one a number.
@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("deepseek_v3", (16, 16)),
        ("llama3", (5, 7)),
        ("qwen3_moe", (8, 32)),
        ("phi3", (1, 3)),
    ],
)
def test_weights_are_numbers_times_scales(name, block, tmp_path):
    case = published(name)
    stored, plain = quantised(case.theirs, block)
    assert sum("_scale_inv" in tensor for tensor in stored) >= 4  # of each layer at the least
    raw = case.raw | {"quantization_config": says(block, modules_to_not_convert=["lm_head"])}
    model = load_model(write(tmp_path / "model", raw, stored))
    jax.tree.map(np.testing.assert_array_equal, model.params, case.load(plain))
    assert model.config.model_copy(update={"dtype": case.config.dtype}) == case.config


@pytest.mark.parametrize("name", ["deepseek_v3", "llama3"])
def test_each_device_reads_its_part(name, tmp_path):
    case = published(name)
    stored, plain = quantised(case.theirs, (5, 7), scale_dtype=ml_dtypes.bfloat16)
    raw = case.raw | {"quantization_config": says((5, 7))}
    folder = write(tmp_path / "model", raw, stored)
    layout = ParallelConfig(layout="fsdp", fsdp=4, tensor=1, data=2).build()
    model = load_model(folder, layout=layout)
    expected = case.load(plain)
    jax.tree.map(np.testing.assert_array_equal, model.params, expected)
    for leaf, place in zip(
        jax.tree.leaves(model.params),
        jax.tree.leaves(weight_shardings(layout, case.specs)),
        strict=True,
    ):
        assert leaf.sharding == place


def test_only_the_blocks_of_a_slice_are_read(tmp_path):
    stored, plain = quantised({"a_proj": published("llama1").theirs["lm_head.weight"]}, (16, 8))
    raw = published("llama1").raw | {"quantization_config": says((16, 8))}
    folder = write(tmp_path / "model", raw, stored)
    (entry,) = with_scales(read_folder(folder), BlockSize(16, 8)).values()
    for box in (
        (slice(3, 4), slice(5, 19)),
        (slice(None), slice(7, 8)),
        (slice(90, 97), slice(0, 48)),
        (slice(4, 4), slice(0, 9)),
    ):
        np.testing.assert_array_equal(entry.read(box), plain["a_proj"][box])
        assert entry.read(box).dtype == np.float32


def test_an_export_is_plain(tmp_path):
    case = published("llama1")
    stored, plain = quantised(case.theirs, (128, 128))
    raw = case.raw | {"quantization_config": says((128, 128))}
    model = load_model(write(tmp_path / "model", raw, stored))
    save_model(model, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
    entries = read_folder(tmp_path / "saved")
    assert entries.keys() == plain.keys()
    for name, values in plain.items():
        np.testing.assert_array_equal(entries[name].array(), values, err_msg=name)


def test_scales_that_are_missing_or_wrong_are_listed(tmp_path):
    case = published("llama1")
    stored, _ = quantised(case.theirs, (16, 16))
    first, second, third = [name for name in stored if "self_attn" in name and "scale" in name][:3]
    del stored[first]
    stored[second] = stored[second][:1]
    stored[third] = stored[third].astype(np.int32)
    stored["model.norm.weight"] = stored["model.norm.weight"].astype(ml_dtypes.float8_e4m3fn)
    stored["model.embed_tokens.weight_scale_inv"] = np.ones((1, 1), np.float32)
    raw = case.raw | {"quantization_config": says((16, 16))}
    with pytest.raises(ValueError, match="the tensors are not those") as error:
        load_model(write(tmp_path / "model", raw, stored))
    text = str(error.value)
    assert f"but its scales {first} are missing" in text
    assert f"its scales {second} are of shape (1, 3), not (3, 3), one for each 16 x 16" in text
    assert f"its scales {third} are of I32" in text
    assert "model.norm.weight: of F8_E4M3 and shape (36,), but only matrices" in text
    assert "model.embed_tokens.weight_scale_inv: left over" in text


def test_eight_bits_without_a_word_of_scales_are_refused(tmp_path):
    case = published("llama1")
    stored, _ = quantised(case.theirs, (16, 16))
    with pytest.raises(ValueError, match=r"q_proj\.weight: of F8_E4M3; without scales only F64"):
        load_model(write(tmp_path / "model", case.raw, stored))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, r"quantised \(gptq\), which is not read"),
        ({"quant_method": None}, r"quantised \(None\)"),
        ({"fmt": "e5m2"}, "fmt='e5m2' cannot be expressed"),
        ({"activation_scheme": "static"}, "activation_scheme='static' cannot be expressed"),
        ({"weight_block_size": [128]}, r"weight_block_size=\[128\] is not two positive"),
        ({"weight_block_size": [128, 0]}, "is not two positive"),
        ({"weight_block_size": None}, "weight_block_size=None is not two positive"),
        ({"bits": 8}, "keys that mean nothing here: bits=8"),
    ],
)
def test_other_ways_are_refused_by_name(changes, message):
    raw = {"quantization_config": says((128, 128)) | changes}
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        read_block_size(raw, name="config.json")


def test_what_says_nothing_is_plain():
    assert read_block_size({}, name="config.json") is None
    assert read_block_size({"quantization_config": None}, name="config.json") is None
    with pytest.raises(ValueError, match="quantization_config is 'fp8', not an object"):
        read_block_size({"quantization_config": "fp8"}, name="config.json")


def test_a_scale_that_is_not_finite_is_told(tmp_path):
    case = published("llama1")
    stored, _ = quantised(case.theirs, (16, 16))
    name = next(name for name in stored if "down_proj" in name and "scale" not in name)
    stored[f"{name}_scale_inv"][0, 0] = np.inf
    raw = case.raw | {"quantization_config": says((16, 16))}
    with pytest.raises(ValueError, match=rf"NaN, infinite or too large for float32: {name};"):
        load_model(write(tmp_path / "model", raw, stored))
