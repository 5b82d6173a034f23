"""Configs that cannot be expressed are named, in both directions."""

import pytest
import tiny

from jaxllm.hf.published import open_published, read_published
from jaxllm.hf.registry import families, family_of, family_that_expresses
from jaxllm.hf.theirs import unknown_keys

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


def test_an_unknown_architecture_names_the_keys_that_no_family_has():
    """Those of any family are known, and so are those that say nothing, or nothing yet."""
    raw = {"model_type": "rwkv", "time_mix_rank": 4, "decay": 2, "use_cache": True, "later": None}
    raw |= {"n_routed_experts": 8, "layer_types": ["x"], "text_config": {}, "rope_scaling": {}}
    with pytest.raises(ValueError, match=r"of its keys no family has decay, time_mix_rank$"):
        family_of(raw, name="config.json")
    raw = {"model_type": "rwkv", **{f"key_{number:02}": 1 for number in range(25)}}
    with pytest.raises(ValueError, match=r"has key_00, .*key_19, and 5 more$"):
        family_of(raw, name="config.json")
    with pytest.raises(ValueError, match=r"vit$"):
        family_of({"model_type": "rwkv"}, name="config.json")


@pytest.mark.parametrize("name", names())
def test_a_family_knows_every_key_that_its_models_have(name):
    raw = read(name)
    assert unknown_keys(raw, families()[raw["model_type"]].known_keys) == []


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3_moe"])
def test_a_window_without_a_size_has_that_of_transformers(name):
    raw = {**read(name), "use_sliding_window": True, "max_window_layers": 0}
    raw = {key: value for key, value in raw.items() if key not in ("sliding_window", "layer_types")}
    config = family_of(raw, name="config.json").read_config(raw)
    assert (config.window, set(config.windowed_layers)) == (4096, {True})
    raw["sliding_window"] = None  # which transformers takes for none
    assert family_of(raw, name="config.json").read_config(raw).window is None


def test_the_context_before_scaling_of_phi3_is_the_key_beside_the_section_or_4096():
    """As in transformers 5, which there never looks into the section; for others it does."""
    raw = {**read("phi3_longrope"), "max_position_embeddings": 8192}
    rope = {**raw["rope_parameters"], "original_max_position_embeddings": 1024}
    rope.pop("attention_factor", None)
    raw["rope_parameters"] = rope
    read_config = families()["phi3"].read_config
    raw["original_max_position_embeddings"] = 512
    assert read_config(raw).rope_scaling.original_length == 512
    del raw["original_max_position_embeddings"]
    scaling = read_config(raw).rope_scaling
    assert scaling.original_length == 4096
    assert scaling.amplitude == pytest.approx((1 + 1 / 12) ** 0.5)  # 8192 is twice 4096 = 2^12
    # A factor that is given counts, whatever the lengths say.
    raw["rope_parameters"] = {**rope, "factor": 16.0}
    assert read_config(raw).rope_scaling.amplitude == pytest.approx((1 + 4 / 12) ** 0.5)
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
    llama = {**read("llama1"), "rope_parameters": {**yarn, "rope_theta": 1e4}}
    assert families()["llama"].read_config(llama).rope_scaling.original_length == 16


def test_a_missing_number_of_experts_has_the_name_that_its_family_gives_it():
    raw = read("deepseek_v3")
    count = raw.pop("n_routed_experts")
    read_config = families()["deepseek_v3"].read_config
    with pytest.raises(ValueError, match="has no 'n_routed_experts'"):
        read_config(raw)
    assert read_config({**raw, "num_local_experts": count}).moe.num_experts == count


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
