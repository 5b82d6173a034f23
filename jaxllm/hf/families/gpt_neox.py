"""GPT-NeoX and Pythia: partly rotated heads, both branches from one input (arXiv:2204.06745)."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field, Row, Rows, under
from jaxllm.hf.rope_keys import read_rope, write_rope
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig

# Of each head, its query, key and value lie together.
_QKV = "attention.query_key_value"
_BLOCK = (
    ("attention_norm.scale", "input_layernorm.weight", "D -> D"),
    ("attention_norm.bias", "input_layernorm.bias", "D -> D"),
    ("mlp_norm.scale", "post_attention_layernorm.weight", "D -> D"),
    ("mlp_norm.bias", "post_attention_layernorm.bias", "D -> D"),
    *(
        row
        for number, name in enumerate(("query", "key", "value"))
        for row in (
            (f"attention.{name}.kernel", f"{_QKV}.weight", f"(N @{number}/3 H) D -> D N H"),
            (f"attention.{name}.bias", f"{_QKV}.bias", f"(N @{number}/3 H) -> N H"),
        )
    ),
    ("attention.out.kernel", "attention.dense.weight", "D (N H) -> N H D"),
    ("attention.out.bias", "attention.dense.bias", "D -> D"),
    ("mlp.up.kernel", "mlp.dense_h_to_4h.weight", "F D -> D F"),
    ("mlp.up.bias", "mlp.dense_h_to_4h.bias", "F -> F"),
    ("mlp.down.kernel", "mlp.dense_4h_to_h.weight", "D F -> F D"),
    ("mlp.down.bias", "mlp.dense_4h_to_h.bias", "D -> D"),
)


def _rows(config: DecoderConfig) -> Rows:
    return [
        Row("embed.table", "gpt_neox.embed_in.weight", "V D -> V D"),
        Row("norm.scale", "gpt_neox.final_layer_norm.weight", "D -> D"),
        Row("norm.bias", "gpt_neox.final_layer_norm.bias", "D -> D"),
        Row("out.kernel", "embed_out.weight", "V D -> D V"),
        *under(("blocks.layers.", "gpt_neox.layers.{layer}."), _BLOCK),
    ]


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("attention_bias", True)
    return read_rope(theirs, default_fraction=0.25)


def _write(config: DecoderConfig) -> dict[str, Any]:
    rope = write_rope(config)
    return {
        "rotary_emb_base": rope["rope_theta"],
        "rotary_pct": config.rope_fraction,
        "rope_scaling": rope["rope_scaling"],
    }


def _ignored(config: DecoderConfig) -> tuple[str, ...]:
    """Masks and tables of angles that older versions saved, and a tied output's second copy."""
    buffers = r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)"
    return (buffers, *(("embed_out.weight",) if config.is_tied else ()))


FAMILY = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    config_type=DecoderConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_layers", "num_hidden_layers"),
        Field("embed_dim", "hidden_size"),
        Field("num_heads", "num_attention_heads"),
        Field("mlp_dim", "intermediate_size"),
        Field("max_length", "max_position_embeddings"),
        Field("norm_epsilon", "layer_norm_eps", 1e-5),
        Field("activation", "hidden_act", "gelu", ACTIVATIONS),
        Field("is_parallel", "use_parallel_residual", True),
        Field("is_tied", "tie_word_embeddings", False),
    ),
    fixed={"norm": "layer", "use_bias": True, "is_gated": False},
    read=_read,
    write=_write,
    rows=_rows,
    ignored=_ignored,
    prefix="gpt_neox.",
)
