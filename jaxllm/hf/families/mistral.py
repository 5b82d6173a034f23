"""Mistral 7B and its successors: Llama with a window (arXiv:2310.06825)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    LLAMA,
    PREFIX,
    decoder_rows,
    ignored_tensors,
    read_heads,
    read_window,
    write_heads,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    return {
        **read_heads(theirs, default_kv=8),
        **read_rope(theirs),
        **read_window(theirs, default_window=4096),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {**write_heads(config), **write_rope(config), "sliding_window": config.window}


FAMILY = Family(
    model_type="mistral",
    architecture="MistralForCausalLM",
    config_type=DecoderConfig,
    fields=(*FIELDS, Field("is_tied", "tie_word_embeddings", False)),
    fixed={"norm": "rms"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, LLAMA),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
