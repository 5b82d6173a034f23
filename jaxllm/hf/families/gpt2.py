"""GPT-2, whose matrices have inputs first."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field, Row, Rows, under
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig

_BLOCK = (
    ("attention_norm.scale", "ln_1.weight", "D -> D"),
    ("attention_norm.bias", "ln_1.bias", "D -> D"),
    ("mlp_norm.scale", "ln_2.weight", "D -> D"),
    ("mlp_norm.bias", "ln_2.bias", "D -> D"),
    *(
        row
        for number, name in enumerate(("query", "key", "value"))
        for row in (
            (f"attention.{name}.kernel", "attn.c_attn.weight", f"D (@{number}/3 N H) -> D N H"),
            (f"attention.{name}.bias", "attn.c_attn.bias", f"(@{number}/3 N H) -> N H"),
        )
    ),
    ("attention.out.kernel", "attn.c_proj.weight", "(N H) D -> N H D"),
    ("attention.out.bias", "attn.c_proj.bias", "D -> D"),
    ("mlp.up.kernel", "mlp.c_fc.weight", "D F -> D F"),
    ("mlp.up.bias", "mlp.c_fc.bias", "F -> F"),
    ("mlp.down.kernel", "mlp.c_proj.weight", "F D -> F D"),
    ("mlp.down.bias", "mlp.c_proj.bias", "D -> D"),
)


def _rows(config: DecoderConfig) -> Rows:
    return [
        Row("embed.table", "transformer.wte.weight", "V D -> V D"),
        Row("position_embed.table", "transformer.wpe.weight", "T D -> T D"),
        Row("norm.scale", "transformer.ln_f.weight", "D -> D"),
        Row("norm.bias", "transformer.ln_f.bias", "D -> D"),
        Row("out.kernel", "lm_head.weight", "V D -> D V"),
        *under(("blocks.layers.", "transformer.h.{layer}."), _BLOCK),
    ]


def _read(theirs: Theirs) -> dict[str, Any]:
    theirs.expect("scale_attn_weights", True)
    theirs.expect("scale_attn_by_inverse_layer_idx", False)
    theirs.expect("add_cross_attention", False)
    return {"mlp_dim": theirs.get("n_inner", None) or 4 * theirs.get("n_embd")}


def _ignored(config: DecoderConfig) -> tuple[str, ...]:
    """Masks that older versions saved, and the tied output's second copy."""
    return (r".*\.attn\.(bias|masked_bias)", *(("lm_head.weight",) if config.is_tied else ()))


FAMILY = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    config_type=DecoderConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("num_layers", "n_layer"),
        Field("embed_dim", "n_embd"),
        Field("num_heads", "n_head"),
        Field("max_length", "n_positions", 1024),
        Field("norm_epsilon", "layer_norm_epsilon", 1e-5),
        Field("activation", "activation_function", "gelu_new", ACTIVATIONS),
        Field("is_tied", "tie_word_embeddings", True),
    ),
    fixed={"norm": "layer", "use_bias": True, "is_gated": False, "positions": "learned"},
    read=_read,
    write=lambda config: {"n_inner": config.mlp_size},
    rows=_rows,
    inert=frozenset({"n_ctx", "reorder_and_upcast_attn"}),
    ignored=_ignored,
    prefix="transformer.",
)
