"""Gemma (arXiv:2403.08295): scaled embeddings, norms that keep their scale minus one."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field
from jaxllm.hf.decoder_names import (
    FIELDS,
    LLAMA,
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
    theirs.expect("use_bidirectional_attention", None, False)
    # Older files say gelu and mean its tanh form, as the published code has it.
    given = theirs.given("hidden_activation", "hidden_act", default="gelu_pytorch_tanh")
    activation = "gelu_pytorch_tanh" if given in (None, "gelu") else given
    if activation not in ACTIVATIONS:
        theirs.refuse(f"hidden_activation={activation!r} is not known here")
    return {
        **read_heads(theirs, default_dim=256, default_kv=16),
        **read_rope(theirs),
        **read_bias(theirs),
        "activation": ACTIVATIONS[activation],
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    return {**write_heads(config), **write_rope(config), **write_bias(config)} | {
        "hidden_act": "gelu_pytorch_tanh" if config.activation == "gelu" else config.activation,
    }


FAMILY = Family(
    model_type="gemma",
    architecture="GemmaForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "activation"),
        Field("is_tied", "tie_word_embeddings", True),
    ),
    fixed={"norm": "rms", "has_centered_scale": True, "is_embed_scaled": True},
    read=_read,
    write=_write,
    rows=lambda config: decoder_rows(config, LLAMA),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
