"""What PEFT reads: names, shapes, and that its formula makes of them the weights that we merge."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.hf.model import load_model
from jaxllm.hf.peft import write_adapter
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import tensors
from jaxllm.nn.adapters import LoraConfig, is_adapter, merged
from jaxllm.nn.param import spec_dict
from jaxllm.nn.parts import joined, split
from jaxllm.parallel.layouts import weight_items

from .published import published

RANK, ALPHA = 3, 5.0
PREFIX = "base_model.model."
CASES = {
    "llama1": {"targets": ("*.attention", "*.mlp")},
    "gpt2": {  # queries and values are two thirds of a layer; its matrices have inputs first
        "targets": ("*.query", "*.value", "*.mlp.down"),
        "is_rank_stabilised": True,
        "has_magnitude": True,
    },
    "phi3": {"targets": ("*.query", "*.mlp.up"), "has_magnitude": True},
    "bert_sequence": {"targets": ("*.query", "*.down"), "also_trained": ("label_head",)},
    "roberta_sequence": {"targets": ("*.value",)},
}


def exported(name, folder, options=None):
    """(the model in folder/base, the network with adapters and its weights) of folder/adapter."""
    published(name).write(folder / "base")
    model = load_model(folder / "base")
    adapter = LoraConfig(rank=RANK, alpha=ALPHA, **(options or CASES[name]))

    def build(key):
        network = model.config.build(key, getattr(model.config, "vocab_size", None))
        adapter.attach(key, network)
        return network

    network = jax.eval_shape(build, jax.random.key(0))
    specs, rng = spec_dict(network), np.random.default_rng(0)
    paths = {path for path, _ in weight_items(specs)}
    chosen = {path for path in paths if is_adapter(path)}
    lora = jax.tree.map(
        lambda spec: jnp.asarray(0.3 * rng.normal(size=spec.shape), jnp.float32),
        split(specs, chosen)[0],
    )
    also = {path for path in paths if path.startswith(tuple(adapter.also_trained) or "-")}
    params = joined(model.params, lora)
    write_adapter(
        folder / "adapter",
        model.config,
        params,
        adapter=adapter,
        family=model.family,
        trained=split(specs, chosen | also)[0],
        base="their/model",
    )
    return model, network, params


def written(name, folder, options=None):
    """(the run's model and its merged weights; adapter_config.json; the adapter's tensors)."""
    model, network, params = exported(name, folder, options)
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    (folder / "adapter" / "adapter_model.safetensors").rename(folder / "model.safetensors")
    return model, merged(network, params), config, whole(read_folder(folder))


def whole(entries):
    return {
        name: np.asarray(entry.read((slice(None),) * len(entry.shape)), np.float64)
        for name, entry in entries.items()
    }


def named(model, params):
    """Weights of ours by their names."""
    rows, specs = model.family.rows(model.config), spec_dict(model.module)
    return {one.name: one.make() for one in tensors(params, specs=specs, rows=rows)}


@pytest.mark.parametrize("name", CASES)
def test_the_factors_make_of_theirs_what_is_merged(name, tmp_path):
    """W + s B A, or of that each output with its own length (arXiv:2402.09353, equation 5)."""
    model, params, config, found = written(name, tmp_path)
    before, expected = named(model, model.params), named(model, params)
    moved = {key for key in before if not np.array_equal(before[key], expected[key])}
    adapted = {key.removesuffix(".lora_A.weight") for key in found if "lora_A" in key}
    assert {PREFIX + key.removesuffix(".weight") for key in moved} == adapted
    for layer in adapted:
        key = layer.removeprefix(PREFIX)
        rank = config["rank_pattern"].get(key, config["r"])
        alpha = config["alpha_pattern"].get(key, config["lora_alpha"])
        a, b = found.pop(f"{layer}.lora_A.weight"), found.pop(f"{layer}.lora_B.weight")
        assert (a.shape[0], b.shape[1]) == (rank, rank)
        weight = np.float64(before[f"{key}.weight"])
        outputs_first = weight.T if config["fan_in_fan_out"] else weight
        result = outputs_first + alpha / (rank**0.5 if config["use_rslora"] else rank) * b @ a
        if config["use_dora"]:
            lengths = found.pop(f"{layer}.lora_magnitude_vector")
            result *= (lengths / np.linalg.norm(result, axis=1))[:, None]
        result = result.T if config["fan_in_fan_out"] else result
        # Float32 roundings of sums of a few numbers of size one.
        np.testing.assert_allclose(expected[f"{key}.weight"], result, rtol=0, atol=2e-5)
        last = key.rpartition(".")[2]
        assert (key in config["target_modules"]) != (last in config["target_modules"])
    own = tuple(f"{PREFIX}{module}." for module in config["modules_to_save"] or ())
    assert all(key.startswith(own) for key in found)
    for key, weight in found.items():
        np.testing.assert_array_equal(weight, before[key.removeprefix(PREFIX)])


def test_what_most_layers_have_stands_once(tmp_path):
    """Two of three thirds have twice the rank and the same scale."""
    _, _, config, _ = written("gpt2", tmp_path)
    ranks = {config["r"], *config["rank_pattern"].values()}
    assert ranks == {RANK, 2 * RANK}
    assert config["fan_in_fan_out"]
    assert config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "their/model"
    assert config["modules_to_save"] is None


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("bert_sequence", {"classifier.weight", "classifier.bias"}),
        (
            "roberta_sequence",
            {
                f"classifier.{part}.{kind}"
                for part in ("dense", "out_proj")
                for kind in ("weight", "bias")
            },
        ),
    ],
)
def test_a_head_of_classes_comes_with_it(name, names, tmp_path):
    _, _, config, found = written(name, tmp_path)
    assert config["modules_to_save"] == ["classifier"]
    assert config["task_type"] == "SEQ_CLS"
    assert {key.removeprefix(PREFIX) for key in found if "lora" not in key} == names


def test_a_layer_that_is_no_matrix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"projection\.weight has no adapter in PEFT's format"):
        written("vit", tmp_path, {"targets": ("patch_embed",)})


@pytest.mark.parametrize(
    ("name", "also_trained", "message"),
    [
        ("gpt2", ("embed",), r"embed\.table was trained .* PEFT would change one of them alone"),
        (
            "gpt2",
            ("blocks.layers.attention.query.bias",),
            r"h\.0\.attn\.c_attn.*: PEFT has low-rank .* but not both",
        ),
    ],
)
def test_what_peft_would_not_put_back_is_refused(name, also_trained, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        written(name, tmp_path, {"targets": ("*.query",), "also_trained": also_trained})
