"""Qwen3-MoE: Qwen3 with a mixture of experts in every layer (arXiv:2505.09388)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    ATTENTION,
    EXPERTS,
    FIELDS,
    HEAD_NORMS,
    NORMS,
    PREFIX,
    decoder_rows,
    ignored_tensors,
    read_bias,
    read_heads,
    write_bias,
    write_heads,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("decoder_sparse_step", 1)
    theirs.expect("mlp_only_layers", [], None)
    theirs.expect("use_qk_norm", True)
    theirs.get("max_window_layers", None)
    is_windowed = theirs.get("use_sliding_window", False)
    window = theirs.get("sliding_window", 4096)
    return {
        **read_heads(theirs, default_kv=4),
        **read_rope(theirs),
        **read_bias(theirs),
        "window": window if is_windowed else None,
        "moe.num_experts": theirs.given("num_local_experts", "num_experts", default=128),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    assert config.moe is not None
    return {
        **write_heads(config),
        **write_rope(config),
        **write_bias(config),
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "num_experts": config.moe.num_experts,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


FAMILY = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *FIELDS,
        Field("is_tied", "tie_word_embeddings", False),
        Field("moe.top_k", "num_experts_per_tok", 8),
        Field("moe.expert_dim", "moe_intermediate_size", 768),
        Field("moe.is_normalized", "norm_topk_prob", False),
    ),
    fixed={"norm": "rms", "qk_norm": "head"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, (*NORMS, *ATTENTION, *HEAD_NORMS, *EXPERTS)),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
