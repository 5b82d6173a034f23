"""OLMo 2: norms on what branches add, and on all heads of a projection (arXiv:2501.00656)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    ATTENTION,
    FIELDS,
    MLP,
    PREFIX,
    Names,
    decoder_rows,
    ignored_tensors,
    read_bias,
    read_heads,
    write_bias,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig

_BLOCK: Names = (
    ("attention_norm.scale", "post_attention_layernorm.weight", "D -> D"),
    ("mlp_norm.scale", "post_feedforward_layernorm.weight", "D -> D"),
    ("attention.query_norm.scale", "self_attn.q_norm.weight", "(N H) -> N H"),
    ("attention.key_norm.scale", "self_attn.k_norm.weight", "(K H) -> K H"),
    *ATTENTION,
    *MLP,
)


def _read(theirs: Theirs) -> dict[str, Any]:
    return {**read_heads(theirs), **read_rope(theirs), **read_bias(theirs)}


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": config.kv_heads,
        **write_rope(config),
        **write_bias(config),
    }


FAMILY = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "norm_epsilon"),
        Field("norm_epsilon", "rms_norm_eps", 1e-5),
        Field("is_tied", "tie_word_embeddings", False),
    ),
    fixed={"norm": "rms", "norm_position": "branch", "qk_norm": "projection"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, _BLOCK),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
