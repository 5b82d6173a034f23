"""Phi-3 and Phi-4: Llama with one projection for queries, keys and values, and one for gate and
up (arXiv:2404.14219)."""

from typing import Any

from jaxllm.hf.base import Family, Field, Rows
from jaxllm.hf.decoder_names import (
    FIELDS,
    NORMS,
    PREFIX,
    Names,
    decoder_rows,
    ignored_tensors,
    read_window,
)
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.rope_scaling import LongScaling


def _rows(config: DecoderConfig) -> Rows:
    heads, keys, hidden = config.num_heads, config.kv_heads, config.mlp_size
    total = heads + 2 * keys
    qkv, up = "self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"
    block: Names = (
        *NORMS,
        ("attention.query.kernel", qkv, f"(N@0/{total} H) D -> D N H"),
        ("attention.key.kernel", qkv, f"(K@{heads}/{total} H) D -> D K H"),
        ("attention.value.kernel", qkv, f"(K@{heads + keys}/{total} H) D -> D K H"),
        ("attention.out.kernel", "self_attn.o_proj.weight", "D (N H) -> N H D"),
        ("mlp.gate.kernel", up, f"F@0/{2 * hidden} D -> D F"),
        ("mlp.up.kernel", up, f"F@{hidden}/{2 * hidden} D -> D F"),
        ("mlp.down.kernel", "mlp.down_proj.weight", "D F -> F D"),
    )
    return decoder_rows(config, block)


def _read(theirs: Theirs) -> dict[str, Any]:
    heads, width = theirs.size("num_attention_heads"), theirs.size("hidden_size")
    theirs.expect("head_dim", width // heads, None)
    return {
        "num_kv_heads": theirs.get("num_key_value_heads", None) or heads,
        "head_dim": width // heads,
        **read_rope(theirs, default_original=4096),
        **read_window(theirs),
    }


def _write(config: DecoderConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    original = scaling.original_length if isinstance(scaling, LongScaling) else config.max_length
    return {
        **write_rope(config),
        "num_key_value_heads": config.kv_heads,
        "partial_rotary_factor": config.rope_fraction,
        "original_max_position_embeddings": original,
        "sliding_window": config.window,
    }


FAMILY = Family(
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    config_type=DecoderConfig,
    fields=(
        *(field for field in FIELDS if field.ours != "norm_epsilon"),
        Field("norm_epsilon", "rms_norm_eps", 1e-5),
        Field("is_tied", "tie_word_embeddings", False),
    ),
    fixed={"norm": "rms"},
    read=_read,
    write=_write,
    rows=_rows,
    inert=frozenset({"original_max_position_embeddings"}),
    ignored=ignored_tensors,
    prefix=PREFIX,
)
