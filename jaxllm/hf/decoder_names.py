"""The names of weights and config keys that most decoders share, after Llama's."""

from collections.abc import Sequence
from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Field, Row, Rows, Theirs, under
from jaxllm.models.decoder_config import DecoderConfig

Names = Sequence[tuple[str, str, str]]

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("num_layers", "num_hidden_layers"),
    Field("embed_dim", "hidden_size"),
    Field("num_heads", "num_attention_heads"),
    Field("mlp_dim", "intermediate_size"),
    Field("max_length", "max_position_embeddings"),
    Field("norm_epsilon", "rms_norm_eps", 1e-6),
    Field("activation", "hidden_act", "silu", ACTIVATIONS),
)

ATTENTION: Names = (
    ("attention.query.kernel", "self_attn.q_proj.weight", "(N H) D -> D N H"),
    ("attention.query.bias", "self_attn.q_proj.bias", "(N H) -> N H"),
    ("attention.key.kernel", "self_attn.k_proj.weight", "(K H) D -> D K H"),
    ("attention.key.bias", "self_attn.k_proj.bias", "(K H) -> K H"),
    ("attention.value.kernel", "self_attn.v_proj.weight", "(K H) D -> D K H"),
    ("attention.value.bias", "self_attn.v_proj.bias", "(K H) -> K H"),
    ("attention.out.kernel", "self_attn.o_proj.weight", "D (N H) -> N H D"),
    ("attention.out.bias", "self_attn.o_proj.bias", "D -> D"),
)

HEAD_NORMS: Names = (
    ("attention.query_norm.scale", "self_attn.q_norm.weight", "H -> H"),
    ("attention.key_norm.scale", "self_attn.k_norm.weight", "H -> H"),
)

MLP: Names = (
    ("mlp.gate.kernel", "mlp.gate_proj.weight", "F D -> D F"),
    ("mlp.gate.bias", "mlp.gate_proj.bias", "F -> F"),
    ("mlp.up.kernel", "mlp.up_proj.weight", "F D -> D F"),
    ("mlp.up.bias", "mlp.up_proj.bias", "F -> F"),
    ("mlp.down.kernel", "mlp.down_proj.weight", "D F -> F D"),
    ("mlp.down.bias", "mlp.down_proj.bias", "D -> D"),
)

NORMS: Names = (
    ("attention_norm.scale", "input_layernorm.weight", "D -> D"),
    ("mlp_norm.scale", "post_attention_layernorm.weight", "D -> D"),
)

EXPERTS: Names = (
    ("moe.router.kernel", "mlp.gate.weight", "E D -> D E"),
    ("moe.experts.gate", "mlp.experts.{expert}.gate_proj.weight", "F D -> D F"),
    ("moe.experts.up", "mlp.experts.{expert}.up_proj.weight", "F D -> D F"),
    ("moe.experts.down", "mlp.experts.{expert}.down_proj.weight", "D F -> F D"),
)

LLAMA: Names = (*NORMS, *ATTENTION, *MLP)


def decoder_rows(config: DecoderConfig, block: Names) -> Rows:
    """The table of a decoder whose blocks have these names; the first ones may be dense."""
    num_dense = config.num_dense_layers
    theirs = "model.layers.{layer}."
    rows = [
        Row("embed.table", "model.embed_tokens.weight", "V D -> V D"),
        Row("norm.scale", "model.norm.weight", "D -> D"),
        Row("out.kernel", "lm_head.weight", "V D -> D V"),
        *under(("blocks.layers.", theirs), block, first_layer=num_dense),
    ]
    if num_dense:
        rows += under(("dense_blocks.layers.", theirs), block)
    return rows


def ignored_tensors(config: DecoderConfig) -> tuple[str, ...]:
    """Tables of angles that older versions saved, and a tied output written a second time."""
    return (r".*rotary_emb\.inv_freq", *(("lm_head.weight",) if config.is_tied else ()))


def read_heads(theirs: Theirs) -> dict[str, Any]:
    """Our num_kv_heads and head_dim, from keys that may be absent or null."""
    heads = theirs.get("num_attention_heads")
    width = theirs.get("hidden_size")
    return {
        "num_kv_heads": theirs.get("num_key_value_heads", None) or heads,
        "head_dim": theirs.get("head_dim", None) or width // heads,
    }


def write_heads(config: DecoderConfig) -> dict[str, Any]:
    """Their num_key_value_heads and head_dim."""
    return {"num_key_value_heads": config.kv_heads, "head_dim": config.head_size}


def read_window(
    theirs: Theirs, *, is_default: bool = True, patterns: Sequence[bool] | None = None
) -> dict[str, Any]:
    """Our window and window_pattern, from layer_types where there are some.

    is_default: whether a window given without layer_types is of every layer. patterns: which
    layers have it, by what older keys say.
    """
    window, kinds = theirs.get("sliding_window", None), theirs.get("layer_types", None)
    if kinds is not None:
        known = ("sliding_attention", "full_attention")
        if set(kinds) - set(known):
            theirs.refuse(f"layer_types has {set(kinds)}; only {' and '.join(known)} are known")
        windowed = [kind == known[0] for kind in kinds]
    elif patterns is not None:
        windowed = list(patterns)
    else:
        windowed = [is_default]
    if window is None or not any(windowed):
        return {"window": None}
    return {"window": window, "window_pattern": shortest(windowed)}


def shortest(pattern: Sequence[bool]) -> tuple[bool, ...]:
    """The shortest beginning that, repeated, gives the pattern."""
    for size in range(1, len(pattern) + 1):
        if all(pattern[i] == pattern[i % size] for i in range(len(pattern))):
            return tuple(pattern[:size])
    return tuple(pattern)


def layer_types(config: DecoderConfig) -> list[str]:
    """Their layer_types."""
    return [
        "sliding_attention" if is_windowed else "full_attention"
        for is_windowed in config.windowed_layers
    ]
