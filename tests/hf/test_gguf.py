"""GGUF files, written with the package gguf as llama.cpp's converter does, are read as its models.

T length.
"""

import math
import sys

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from tiny import fast

from jaxllm.hf import gguf_file
from jaxllm.hf.base import essence
from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.gguf_file import read_gguf
from jaxllm.hf.registry import family_of
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import load
from jaxllm.nn.param import bind, spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

from .converted import TINY, converted, keys, name_of, shapes, tiny, write
from .published import published
from .random_weights import write_safetensors


def network(model):
    """Its config as ours, and its module, both of float32."""
    family = family_of(model.config, name="it")
    config = family.read_config(model.config, name="it")
    config = config.model_copy(update={"dtype": "float32"})
    module = jax.eval_shape(lambda: config.build(jax.random.key(0), config.vocab_size))
    return family, config, module


def loaded(model, entries=None):
    family, config, module = network(model)
    return load(
        model.tensors if entries is None else entries,
        folder=model.file.path,
        specs=spec_dict(module),
        rows=family.rows(config),
        ignored=family.ignored(config),
    )


def logits(module, params, tokens, segments=None):
    return fast(lambda params: bind(module, params)(tokens, segment_ids_BT=segments))(params)


def assert_same(ours, expected):
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


@pytest.mark.parametrize("name", ["llama1", "llama_bias", "qwen2", "qwen3"])
def test_a_converted_model_is_the_published_one(name, tmp_path):
    case = published(name)
    # The converter leaves out the window, which no published one uses.
    theta = case.raw["rope_parameters"]["rope_theta"]
    raw = case.raw | {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}}
    raw |= {"use_sliding_window": False} if "use_sliding_window" in raw else {}
    write(tmp_path / "m.gguf", raw, converted(case.theirs, raw))
    model = open_gguf(tmp_path / "m.gguf")
    assert_same(loaded(model), case.load())
    assert essence(network(model)[1]) == essence(case.family.read_config(raw))


def test_factors_of_frequencies_give_the_published_logits(tmp_path):
    case = published("llama3")
    rope, half = case.raw["rope_parameters"], case.raw["head_dim"] // 2
    factors = []
    for index in range(half):  # as the converter computes them
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / half)
        turns = rope["original_max_position_embeddings"] / wavelength
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        smooth = (turns - low) / (high - low)
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1 if turns > high else rope["factor"] if turns < low else between)
    tensors = converted(case.theirs, case.raw)
    tensors["rope_freqs.weight"] = np.array(factors, np.float32)
    write(tmp_path / "m.gguf", case.raw, tensors)
    model = open_gguf(tmp_path / "m.gguf")
    tokens, mask = case.reference["input_ids"], case.reference["attention_mask"]
    _, _, module = network(model)
    ours = np.where(mask[..., None] > 0, logits(module, loaded(model), tokens, mask), 0)
    assert np.abs(ours - case.reference["logits"]).max() <= case.noise("logits")


def test_factors_of_llama_3_have_its_name(tmp_path):
    tensors = converted(tiny(), TINY)
    metadata = keys(TINY | {"rope_parameters": {"rope_theta": 5e8}})
    frequencies = 5e8 ** (-np.arange(12) / 12)  # some below, between and above
    smooth = np.clip((8192 * frequencies / (2 * np.pi) - 1) / 3, 0, 1)
    for change, kind in ((1.0, "llama3"), (1.001, "longrope")):
        factors = (change / ((1 - smooth) / 32 + smooth)).astype(np.float32)
        tensors["rope_freqs.weight"] = factors
        write(tmp_path / "m.gguf", TINY, tensors, metadata=metadata)
        scaling = network(open_gguf(tmp_path / "m.gguf"))[1].rope_scaling
        assert scaling.type == kind
        scaled = scaling.scaled(np.float32(frequencies), theta=5e8, positions_BT=np.zeros((1, 1)))
        np.testing.assert_allclose(scaled, frequencies / factors, rtol=2e-6)
    tensors["rope_freqs.weight"] = np.ones(12, np.float32)
    write(tmp_path / "m.gguf", TINY, tensors)
    assert open_gguf(tmp_path / "m.gguf").config["rope_scaling"] is None


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q6_K"])
def test_quantised_weights_are_the_decoded_ones(kind, tmp_path):
    blocks = write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), kind=kind)
    assert any(type_.name == kind for type_, _ in blocks.values())
    decoded = {name: gguf.dequantize(array, type_) for name, (type_, array) in blocks.items()}
    entries = open_gguf(tmp_path / "m.gguf").tensors
    assert set(entries) == set(shapes())
    for name, entry in entries.items():
        expected = decoded[name_of(name)]
        if "q_proj" in name or "k_proj" in name:
            # Neighbours of a head are the same place of its two halves.
            order = np.arange(len(expected)).reshape(-1, 12, 2)
            expected = expected[np.concatenate([order[..., 0], order[..., 1]], 1).ravel()]
        assert entry.array().dtype == np.float32
        np.testing.assert_array_equal(entry.array(), expected, err_msg=name)


def test_logits_are_those_of_the_same_weights_as_safetensors(tmp_path):
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), kind="Q8_0")
    model = open_gguf(tmp_path / "m.gguf")
    arrays = {name: entry.array() for name, entry in model.tensors.items()}
    write_safetensors(tmp_path / "model.safetensors", arrays)
    _, _, module = network(model)
    tokens = np.random.default_rng(1).integers(0, 70, (1, 12)).astype(np.int32)
    ours = logits(module, loaded(model), tokens)
    expected = logits(module, loaded(model, read_folder(tmp_path)), tokens)
    np.testing.assert_array_equal(ours, expected)
    assert np.ptp(ours) > 1


def test_a_model_without_output_is_tied_and_one_without_kv_heads_has_all(tmp_path):
    tensors = converted(tiny(), TINY)
    del tensors["output.weight"]
    write(tmp_path / "m.gguf", TINY, tensors, metadata=keys(TINY, attention__head_count_kv=None))
    config = open_gguf(tmp_path / "m.gguf").config
    assert config["tie_word_embeddings"] is True
    assert config["num_key_value_heads"] == 4
    assert config["rms_norm_eps"] == 1e-5  # not the nearest float32


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"rope__scaling__type": "none", "rope__scaling__factor": 4.0}, None),
        ({"rope__scale_linear": 2.0}, {"rope_type": "linear", "factor": 2.0}),
        (
            {
                "rope__scaling__type": "yarn",
                "rope__scaling__factor": 4.0,
                "rope__scaling__original_context_length": 16,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        ),
    ],
)
def test_scaling_of_positions(changes, expected, tmp_path):
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), metadata=keys(TINY, **changes))
    assert open_gguf(tmp_path / "m.gguf").config["rope_scaling"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expert_count": 8}, "expert_count=8 cannot be expressed here"),
        ({"rope__dimension_count": 8}, "rope.dimension_count=8 cannot be expressed here"),
        ({"rope__scaling__type": "longrope"}, "'longrope' is not known here, only none, linear"),
        ({"attention__scale": 0.5}, "keys that mean nothing here: attention.scale=0.5"),
        ({"block_count": None}, "has no 'block_count'"),
        ({"context_length": 0}, "context_length is 0"),
    ],
)
def test_options_that_cannot_be_expressed(changes, message, tmp_path):
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), metadata=keys(TINY, **changes))
    with pytest.raises(ValueError, match=message):
        open_gguf(tmp_path / "m.gguf")


def test_other_architectures_and_parts(tmp_path):
    path = tmp_path / "m.gguf"
    write(path, TINY | {"model_type": "falcon"}, {"a.weight": np.zeros((2, 32), np.float32)})
    with pytest.raises(ValueError, match="'falcon' is not known here; known are llama, qwen2"):
        open_gguf(path)
    write(path, TINY, {"a": np.zeros(2, np.float32)}, metadata={"split.count": 3})
    with pytest.raises(ValueError, match="is one of 3 parts; put them together"):
        open_gguf(path)


def test_tensors_that_are_missing_or_left_over(tmp_path):
    tensors = converted(tiny(), TINY)
    tensors["blk.0.attn_sub_norm.weight"] = tensors.pop("blk.1.ffn_up.weight")
    write(tmp_path / "m.gguf", TINY, tensors)
    model = open_gguf(tmp_path / "m.gguf")
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight: missing\n.*sub_norm") as e:
        loaded(model)
    assert "blk.0.attn_sub_norm.weight: left over, of shape (256, 64)" in str(e.value)
    del tensors["token_embd.weight"]
    write(tmp_path / "m.gguf", TINY, tensors)
    with pytest.raises(ValueError, match=r"the file has no token_embd\.weight"):
        open_gguf(tmp_path / "m.gguf")


def test_files_that_are_none_or_truncated(tmp_path):
    path, whole = tmp_path / "m.gguf", tmp_path / "whole.gguf"
    with pytest.raises(ValueError, match="there is no file"):
        read_gguf(path)
    write(whole, TINY, converted(tiny(), TINY), kind="Q8_0")
    content = whole.read_bytes()
    for bad, message in (
        (b"", "is no GGUF file: it does not begin with GGUF"),
        (b"PK\3\4" + content[4:], "is no GGUF file"),
        (content[:4], "is truncated: its header goes on behind byte 4; get it anew"),
        (content[:200], "is truncated: its header goes on behind byte 200"),
        (content[:-100], r"is truncated: blk\.1\.\S+ ends at byte \d+ of"),
        (b"GGUF\1\0\0\0" + content[8:], "is of version 1 of GGUF, and 2 and 3 are read"),
        (b"GGUF\0\0\0\3" + content[8:], "is big-endian"),
        (content.replace(b"ffn_down", b"ffn_d\xffwn"), "is damaged: 'utf-8' codec"),
        (content.replace(b"blk.1.", b"blk.0."), "tensors some have the same name"),
    ):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            read_gguf(path)


def test_types_that_are_not_decoded(tmp_path):
    path = tmp_path / "m.gguf"
    write(path, TINY, {"a.weight": np.zeros((2, 32), np.float32)})
    content = path.read_bytes()
    at = content.index(b"a.weight") + len(b"a.weight") + 4 + 2 * 8  # the dimensions are between
    for kind, message in (
        (Type.Q8_1, r"a\.weight is of Q8_1, which the package gguf does not decode"),
        (999, r"a\.weight is of type 999, which the package gguf does not know; update it"),
    ):
        path.write_bytes(content[:at] + int(kind).to_bytes(4, "little") + content[at + 4 :])
        with pytest.raises(ValueError, match=message):
            read_gguf(path)


def test_only_quantised_tensors_need_the_package(tmp_path, monkeypatch):
    for kind in ("F16", "Q4_0"):
        write(tmp_path / f"{kind}.gguf", TINY, converted(tiny(), TINY), kind=kind)
    gguf_file._blocks.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    loaded(open_gguf(tmp_path / "F16.gguf"))
    with pytest.raises(ValueError, match=r"pip install 'jaxllm\[gguf\]'"):
        open_gguf(tmp_path / "Q4_0.gguf")


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q6_K"])
def test_a_part_is_that_of_the_whole(kind, tmp_path):
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), kind=kind)
    entries = open_gguf(tmp_path / "m.gguf").tensors
    for name in ("self_attn.k_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"):
        entry = entries[f"model.layers.1.{name}"]
        whole = entry.array()
        for first, last in ((0, 1), (3, 31), (20, 49), (47, 48), (0, None)):
            box = (slice(first, last),) * whole.ndim
            np.testing.assert_array_equal(entry.read(box), whole[box], err_msg=name)


def test_every_block_is_decoded_once(tmp_path, monkeypatch):
    """On eight devices, four of which hold the same part: their cuts are at ends of blocks."""
    write(tmp_path / "m.gguf", TINY, converted(tiny(), TINY), kind="Q8_0")
    sizes, decode = [], gguf.quants.dequantize

    def counted(blocks, kind):
        numbers = decode(blocks, kind)
        sizes.append(numbers.size)
        return numbers

    model = open_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(gguf.quants, "dequantize", counted)
    family, config, module = network(model)
    specs = spec_dict(module)
    layout = ParallelConfig(layout="fsdp", fsdp=2, tensor=1, data=4).build()
    params = load(
        model.tensors,
        folder=model.file.path,
        specs=specs,
        rows=family.rows(config),
        shardings=weight_shardings(layout, specs),
    )
    assert sum(sizes) == sum(math.prod(shape) for shape in shapes().values() if len(shape) == 2)
    assert max(sizes) == 256 * 64 / 2  # a device's part of the largest
    monkeypatch.undo()
    assert_same(params, loaded(model))
