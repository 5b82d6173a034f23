"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values (arXiv:2407.10671)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    LLAMA,
    PREFIX,
    decoder_rows,
    ignored_tensors,
    read_heads,
    read_upper_window,
    write_upper_window,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    return {**read_heads(theirs, default_kv=32), **read_rope(theirs), **read_upper_window(theirs)}


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": config.kv_heads,
        **write_rope(config),
        **write_upper_window(config),
    }


FAMILY = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    config_type=DecoderConfig,
    fields=(*FIELDS, Field("is_tied", "tie_word_embeddings", False)),
    fixed={"norm": "rms", "attention_bias": "qkv"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, LLAMA),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
