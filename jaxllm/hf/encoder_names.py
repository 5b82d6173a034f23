"""The names of weights and config keys that encoders share, after BERT's."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Field, Row, Rows, under
from jaxllm.hf.decoder_names import Names
from jaxllm.hf.theirs import Theirs
from jaxllm.models.encoder_config import EncoderConfig

# Of blocks of any kind, with their values where a config.json leaves them out.
BLOCK_FIELDS = (
    Field("num_layers", "num_hidden_layers"),
    Field("embed_dim", "hidden_size"),
    Field("num_heads", "num_attention_heads"),
    Field("mlp_dim", "intermediate_size"),
    Field("activation", "hidden_act", "gelu", ACTIVATIONS),
    Field("norm_epsilon", "layer_norm_eps", 1e-12),
)

TEXT_FIELDS = (
    *BLOCK_FIELDS,
    Field("vocab_size", "vocab_size"),
    Field("max_length", "max_position_embeddings"),
    Field("num_token_types", "type_vocab_size", 2),
)

TEXT_INERT = frozenset({"output_past", "tie_word_embeddings"})

# Before version 1.0 norms had the names of TensorFlow.
OLDER = (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias"))


def norm(ours: str, theirs: str) -> Names:
    """The rows of a layer norm."""
    return (
        (f"{ours}.scale", f"{theirs}.weight", "D -> D"),
        (f"{ours}.bias", f"{theirs}.bias", "D -> D"),
    )


def linear(ours: str, theirs: str) -> Names:
    """The rows of a linear layer."""
    return (
        (f"{ours}.kernel", f"{theirs}.weight", "O I -> I O"),
        (f"{ours}.bias", f"{theirs}.bias", "O -> O"),
    )


def block(
    *,
    query: str,
    key: str,
    value: str,
    out: str,
    up: str,
    down: str,
    attention_norm: str,
    mlp_norm: str,
) -> Names:
    """The rows of a block whose layers have these names."""
    heads = (("query", query), ("key", key), ("value", value))
    return (
        *(
            row
            for ours, theirs in heads
            for row in (
                (f"attention.{ours}.kernel", f"{theirs}.weight", "(N H) D -> D N H"),
                (f"attention.{ours}.bias", f"{theirs}.bias", "(N H) -> N H"),
            )
        ),
        ("attention.out.kernel", f"{out}.weight", "D (N H) -> N H D"),
        ("attention.out.bias", f"{out}.bias", "D -> D"),
        *linear("mlp.up", up),
        *linear("mlp.down", down),
        *norm("attention_norm", attention_norm),
        *norm("mlp_norm", mlp_norm),
    )


def patches(size: int) -> str:
    """How a convolution over patches is our matrix of their numbers, channels last."""
    return f"D C y{size} x{size} -> (y{size} x{size} C) D"


BERT_BLOCK = block(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention_norm="attention.output.LayerNorm",
    mlp_norm="output.LayerNorm",
)


def text_rows(prefix: str, heads: Names) -> Rows:
    """The table of an encoder of texts whose names, but for its heads', begin with a prefix."""
    embeddings: Names = (
        ("embed.table", "word_embeddings.weight", "V D -> V D"),
        ("position_embed.table", "position_embeddings.weight", "T D -> T D"),
        ("type_embed.table", "token_type_embeddings.weight", "T D -> T D"),
        *norm("input_norm", "LayerNorm"),
    )
    return [
        *under(("", f"{prefix}embeddings."), embeddings),
        *under(("blocks.layers.", f"{prefix}encoder.layer.{{layer}}."), BERT_BLOCK),
        *(Row(*names) for names in heads),
    ]


def read_text(theirs: Theirs) -> dict[str, Any]:
    """The classes of a head; what no key of ours stands for must be as it always is."""
    theirs.expect("position_embedding_type", "absolute")
    theirs.expect("is_decoder", False)
    theirs.expect("add_cross_attention", False)
    if theirs.head in ("masked_lm", "pretraining"):
        theirs.expect("tie_word_embeddings", True)
    if theirs.get("type_vocab_size", 2) == 0:
        theirs.refuse("type_vocab_size=0, but there is always a type to look up")
    return read_labels(theirs)


def read_labels(theirs: Theirs) -> dict[str, Any]:
    """Our num_labels: as many as classes have names, or two."""
    names, number = theirs.get("id2label", None), theirs.get("num_labels", None)
    count = len(names) if names else number or 2
    if theirs.head == "span" and count != 2:
        theirs.refuse(f"{count} labels cannot be expressed here, only 2, beginning and end")
    return {"num_labels": count if theirs.head in ("sequence", "token", "image") else None}


def write_labels(num_labels: int | None) -> dict[str, Any]:
    """The names that classes have where nobody named them."""
    if num_labels is None:
        return {}
    names = [f"LABEL_{number}" for number in range(num_labels)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def left_over(config: EncoderConfig, prefix: str) -> tuple[str, ...]:
    """Patterns of what checkpoints have beside the network, and transformers leaves unread."""
    positions = r"(.*\.)?position_ids"  # 0, 1, 2, ..., saved by older versions
    if config.head in ("pooler", "pretraining", "sequence"):
        return (positions,)
    # Of the pretraining, for a head that reads the states themselves.
    return (positions, rf"{prefix}pooler\.dense\.(weight|bias)")
