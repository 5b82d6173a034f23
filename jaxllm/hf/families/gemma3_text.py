"""Gemma 3, its text part (arXiv:2503.19786): five layers with a window and their own rotary
frequencies for each one without."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    GELU,
    HEAD_NORMS,
    PREFIX,
    SANDWICH,
    decoder_rows,
    ignored_tensors,
    layer_types,
    read_bias,
    read_heads,
    read_query_scale,
    read_window,
    write_bias,
    write_heads,
    write_query_scale,
)
from jaxllm.hf.rope_keys import read_scaling, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("use_bidirectional_attention", False, None)
    theirs.expect("attn_logit_softcapping", None)
    period = theirs.given("sliding_window_pattern", "_sliding_window_pattern", default=6)
    theirs.get("_sliding_window_pattern", None)
    num_layers = theirs.size("num_hidden_layers")
    by_period = [(layer + 1) % period != 0 for layer in range(num_layers)]
    windowed = read_window(theirs, default_window=4096, patterns=by_period)
    return {
        **read_heads(theirs, default_dim=256, default_kv=4),
        **_read_rope(theirs, has_windows=windowed["window"] is not None),
        **read_bias(theirs),
        **windowed,
        **read_query_scale(theirs),
    }


def _read_rope(theirs: Theirs, *, has_windows: bool) -> dict[str, Any]:
    """The frequencies of layers without a window and of those with one, old keys and new."""
    theta = theirs.get("rope_theta", 1_000_000.0)
    local = theirs.get("rope_local_base_freq", 10_000.0)
    scaling = theirs.get("rope_scaling", None)
    both = theirs.get("rope_parameters", None) or {}
    if both and (scaling or set(both) - {"full_attention", "sliding_attention"}):
        theirs.refuse("rope_parameters are for full_attention and sliding_attention, and alone")
    keys = dict(both.get("full_attention") or scaling or {})
    local_keys = dict(both.get("sliding_attention") or {})
    local = local_keys.pop("rope_theta", local)
    if local_keys.pop("rope_type", "default") != "default" or local_keys:
        theirs.refuse(f"rope_parameters of layers with a window are scaled: {local_keys}")
    return {
        "rope_theta": keys.pop("rope_theta", theta),
        "rope_scaling": read_scaling(theirs, keys),
        "window_rope_theta": local if has_windows else None,
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_heads(config),
        **write_rope(config),
        **write_bias(config),
        **write_query_scale(config),
        "rope_local_base_freq": config.window_rope_theta or config.rope_theta,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


FAMILY = Family(
    model_type="gemma3_text",
    architecture="Gemma3ForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "activation"),
        Field("activation", "hidden_activation", "gelu_pytorch_tanh", GELU),
        Field("is_tied", "tie_word_embeddings", True),
        Field("logit_soft_cap", "final_logit_softcapping", None),
    ),
    fixed={
        "norm": "rms",
        "has_centered_scale": True,
        "is_embed_scaled": True,
        "norm_position": "both",
        "qk_norm": "head",
    },
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, (*SANDWICH, *HEAD_NORMS)),
    inert=frozenset({"cache_implementation"}),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
