"""Llama 1 to 3, and what others call so (arXiv:2302.13971, 2307.09288, 2407.21783)."""

from typing import Any

from jaxllm.hf.base import Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    LLAMA,
    PREFIX,
    decoder_rows,
    ignored_tensors,
    read_heads,
    write_heads,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig


def _read(theirs: Theirs) -> dict[str, Any]:
    attention, mlp = theirs.get("attention_bias", False), theirs.get("mlp_bias", False)
    return {
        **read_heads(theirs),
        **read_rope(theirs),
        "use_bias": mlp,
        "attention_bias": "all" if attention else "none",
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {
        **write_heads(config),
        **write_rope(config),
        "attention_bias": config.projection_bias == "all",
        "mlp_bias": config.use_bias,
    }


FAMILY = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    config_type=DecoderConfig,
    fields=(*FIELDS, Field("is_tied", "tie_word_embeddings", False)),
    fixed={"norm": "rms"},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, LLAMA),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
