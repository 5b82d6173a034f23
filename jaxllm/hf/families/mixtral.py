"""Mixtral: Mistral with a mixture of experts (arXiv:2401.04088)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    ATTENTION,
    FIELDS,
    NORMS,
    PREFIX,
    Names,
    decoder_rows,
    ignored_tensors,
    read_heads,
    read_window,
    write_heads,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig

_EXPERTS: Names = (
    ("moe.router.kernel", "block_sparse_moe.gate.weight", "E D -> D E"),
    ("moe.experts.gate.kernel", "block_sparse_moe.experts.{expert}.w1.weight", "F D -> D F"),
    ("moe.experts.down.kernel", "block_sparse_moe.experts.{expert}.w2.weight", "D F -> F D"),
    ("moe.experts.up.kernel", "block_sparse_moe.experts.{expert}.w3.weight", "F D -> D F"),
)


def _read(theirs: Theirs) -> dict[str, Any]:
    return {
        **read_heads(theirs, default_kv=8),
        **read_rope(theirs, default_theta=1e6),
        **read_window(theirs),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {**write_heads(config), **write_rope(config), "sliding_window": config.window}


FAMILY = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "norm_epsilon"),
        Field("norm_epsilon", "rms_norm_eps", 1e-5),
        Field("is_tied", "tie_word_embeddings", False),
        Field("moe.num_experts", "num_local_experts", 8),
        Field("moe.top_k", "num_experts_per_tok", 2),
    ),
    fixed={"norm": "rms"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, (*NORMS, *ATTENTION, *_EXPERTS)),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
