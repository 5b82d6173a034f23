"""Gemma 2 (arXiv:2408.00118): windows in every other layer, soft caps, norms on both sides."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    GELU,
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
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("use_bidirectional_attention", None, False)
    num_layers = theirs.size("num_hidden_layers")
    every_other = [layer % 2 == 0 for layer in range(num_layers)]
    return {
        **read_heads(theirs, default_dim=256, default_kv=4),
        **read_rope(theirs),
        **read_bias(theirs),
        **read_window(theirs, default_window=4096, patterns=every_other),
        **read_query_scale(theirs),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_heads(config),
        **write_rope(config),
        **write_bias(config),
        **write_query_scale(config),
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


FAMILY = Family(
    model_type="gemma2",
    architecture="Gemma2ForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "activation"),
        Field("activation", "hidden_activation", "gelu_pytorch_tanh", GELU),
        Field("is_tied", "tie_word_embeddings", True),
        Field("attention_soft_cap", "attn_logit_softcapping", 50.0),
        Field("logit_soft_cap", "final_logit_softcapping", 30.0),
    ),
    fixed={
        "norm": "rms",
        "has_centered_scale": True,
        "is_embed_scaled": True,
        "norm_position": "both",
    },
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, SANDWICH),
    inert=frozenset({"hidden_act", "cache_implementation", "sliding_window_size"}),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
