"""The names of weights and config keys that most decoders share, after Llama's."""

from collections.abc import Sequence
from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Field, Row, Rows, under
from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig

Names = Sequence[tuple[str, str, str]]

PREFIX = "model."

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
    ("moe.experts.gate.kernel", "mlp.experts.{expert}.gate_proj.weight", "F D -> D F"),
    ("moe.experts.up.kernel", "mlp.experts.{expert}.up_proj.weight", "F D -> D F"),
    ("moe.experts.down.kernel", "mlp.experts.{expert}.down_proj.weight", "D F -> F D"),
)

# With norms on both sides of each branch.
SANDWICH: Names = (
    ("attention_norm.scale", "input_layernorm.weight", "D -> D"),
    ("attention_branch_norm.scale", "post_attention_layernorm.weight", "D -> D"),
    ("mlp_norm.scale", "pre_feedforward_layernorm.weight", "D -> D"),
    ("mlp_branch_norm.scale", "post_feedforward_layernorm.weight", "D -> D"),
    *ATTENTION,
    *MLP,
)

# Gemma's spelling first, as it is what is written.
GELU = {"gelu_pytorch_tanh": "gelu", **ACTIVATIONS}

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


def read_heads(
    theirs: Theirs, *, default_dim: int | None = None, default_kv: int | None = None
) -> dict[str, Any]:
    """Our num_kv_heads and head_dim, from keys that may be absent or null.

    default_dim: head_dim where the key is absent; None divides the width by the heads.
    default_kv: num_key_value_heads where the key is absent; None is as many as queries have.
    """
    heads = theirs.size("num_attention_heads")
    width = theirs.size("hidden_size")
    return {
        "num_kv_heads": theirs.get("num_key_value_heads", default_kv) or heads,
        "head_dim": theirs.get("head_dim", default_dim) or width // heads,
    }


def write_heads(config: DecoderConfig) -> dict[str, Any]:
    """Their num_key_value_heads and head_dim."""
    return {"num_key_value_heads": config.kv_heads, "head_dim": config.head_size}


def read_bias(theirs: Theirs) -> dict[str, Any]:
    """Our attention_bias from theirs, which is of all four projections."""
    return {"attention_bias": "all" if theirs.get("attention_bias", False) else "none"}


def write_bias(config: DecoderConfig) -> dict[str, Any]:
    """Their attention_bias."""
    return {"attention_bias": config.projection_bias == "all"}


def read_query_scale(theirs: Theirs) -> dict[str, Any]:
    """Our query_scale from the number whose root divides scores."""
    return {"query_scale": theirs.get("query_pre_attn_scalar", 256) ** -0.5}


def write_query_scale(config: DecoderConfig) -> dict[str, Any]:
    """The number whose root divides scores, whole where it is one."""
    scale = config.query_scale or config.head_size**-0.5
    number = scale**-2
    return {
        "query_pre_attn_scalar": round(number) if abs(number - round(number)) < 1e-6 else number
    }


def read_window(
    theirs: Theirs,
    *,
    default_window: int | None = None,
    patterns: Sequence[bool] = (True,),
) -> dict[str, Any]:
    """Our window and window_pattern.

    default_window: the window where the key is absent. patterns: which layers have it where
    there are no layer_types.
    """
    window = theirs.get("sliding_window", default_window)
    kinds = theirs.get("layer_types", None)
    known = ("sliding_attention", "full_attention")
    if kinds is not None and set(kinds) - set(known):
        theirs.refuse(f"layer_types has {sorted(set(kinds))}; only {' and '.join(known)} are known")
    windowed = list(patterns) if kinds is None else [kind == known[0] for kind in kinds]
    if window is None or not any(windowed):
        return {"window": None}
    return {"window": window, "window_pattern": shortest(windowed)}


def read_upper_window(theirs: Theirs) -> dict[str, Any]:
    """Our window and window_pattern where layers from max_window_layers on may have one."""
    first = theirs.get("max_window_layers", 28)
    num_layers = theirs.size("num_hidden_layers")
    upper = [layer >= first for layer in range(num_layers)]
    found = read_window(theirs, default_window=4096, patterns=upper)
    return found if theirs.get("use_sliding_window", False) else {"window": None}


def write_upper_window(config: DecoderConfig) -> dict[str, Any]:
    """Their keys for which layers have a window."""
    windowed = config.windowed_layers
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": windowed.index(True) if any(windowed) else config.num_layers,
        "layer_types": layer_types(config),
    }


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
