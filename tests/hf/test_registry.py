"""Configs that cannot be expressed are named, in both directions."""

import pytest
import tiny

from jaxllm.hf.published import open_published, read_published
from jaxllm.hf.registry import families, family_of, family_that_expresses

from . import test_decoders, test_encoder_decoders, test_encoders
from .published import names, published, read


def refuse(name, match, **changes):
    raw = {**read(name), **changes}
    with pytest.raises(ValueError, match=match):
        family_of(raw, name="config.json").read_config(raw)


def test_every_recorded_model_is_compared():
    compared = (*test_decoders.CASES, *test_encoders.TASKS, *test_encoder_decoders.CASES)
    assert sorted(compared) == names()
    assert {read(name)["model_type"] for name in compared} == families().keys()


def test_an_unknown_architecture_lists_the_known_ones():
    refuse("llama1", "model_type='rwkv'.*known are.*deepseek_v3.*llama.*qwen3", model_type="rwkv")


def test_an_unknown_key_is_named():
    refuse("llama1", "mean nothing here: novelty=3", novelty=3)


def test_options_that_cannot_be_expressed_are_named():
    refuse("qwen3_moe", "decoder_sparse_step=2 cannot be expressed", decoder_sparse_step=2)
    refuse("deepseek_v3", "attention_bias=True cannot be expressed", attention_bias=True)
    refuse("llama1", "hidden_act='mish' is not known", hidden_act="mish")
    refuse("gemma3_text", "use_bidirectional_attention=True", use_bidirectional_attention=True)
    refuse("gpt2", "scale_attn_by_inverse_layer_idx", scale_attn_by_inverse_layer_idx=True)
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    refuse("llama1", "rope_type='dynamic' is not known", rope_parameters=rope)
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "twist": 1}
    refuse("llama1", "rope_type=linear with twist", rope_parameters=rope)


def test_a_missing_key_is_named():
    raw = read("llama1")
    del raw["hidden_size"]
    with pytest.raises(ValueError, match="has no 'hidden_size'"):
        family_of(raw, name="config.json").read_config(raw)


def test_quantised_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}'
    )
    with pytest.raises(ValueError, match=r"quantised \(gptq\)"):
        open_published(tmp_path)


def test_what_is_not_even_a_config(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        read_published(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        read_published(tmp_path)


@pytest.mark.parametrize("name", ["llama3", "gemma2", "gpt2", "mixtral", "olmo2", "gpt_neox"])
def test_the_family_of_a_network_is_found(name):
    case = published(name)
    assert family_that_expresses(case.config) is case.family


def test_a_network_of_no_family_says_why():
    config = tiny.config(activation="relu_squared", is_gated=False, vocab_size=64)
    with pytest.raises(ValueError, match=r"no published family") as error:
        family_that_expresses(config)
    assert "llama: is_gated=False" in str(error.value)
    assert "gpt2: " in str(error.value)


def test_defaults_are_a_llama():
    assert family_that_expresses(tiny.config(vocab_size=64)) is families()["llama"]


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**12},
        {"num_hidden_layers": "three"},
        {"num_attention_heads": 0},
        {"hidden_size": None},
        {"vocab_size": None},
        {"hidden_act": ["silu"]},
        {"rope_parameters": 5},
        {"rope_parameters": {"rope_type": "linear"}},
        {"architectures": 5},
        {"rms_norm_eps": -1.0},
    ],
)
def test_values_of_the_wrong_kind_are_told(change):
    refuse("llama1", r"^config\.json", **change)
