"""Qwen3: norms on queries and keys in place of biases (arXiv:2505.09388)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    HEAD_NORMS,
    LLAMA,
    PREFIX,
    decoder_rows,
    ignored_tensors,
    read_bias,
    read_heads,
    read_upper_window,
    write_bias,
    write_heads,
    write_upper_window,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    return {
        **read_heads(theirs, default_dim=128, default_kv=32),
        **read_rope(theirs),
        **read_upper_window(theirs),
        **read_bias(theirs),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_heads(config),
        **write_rope(config),
        **write_upper_window(config),
        **write_bias(config),
    }


FAMILY = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    config_type=DecoderConfig,
    fields=(*FIELDS, Field("is_tied", "tie_word_embeddings", False)),
    fixed={"norm": "rms", "qk_norm": "head"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, (*LLAMA, *HEAD_NORMS)),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
