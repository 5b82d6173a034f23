"""T5 (arXiv:1910.10683) and T5 1.1, with gated feed-forward layers and an output of its own."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field, Row, Rows, under
from jaxllm.hf.decoder_names import Names
from jaxllm.hf.theirs import Theirs
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig

_GATED = "gated-"


def _attention(ours: str, norm: str, theirs: str, name: str) -> Names:
    parts = (("query", "q"), ("key", "k"), ("value", "v"))
    return (
        (f"{norm}.scale", f"{theirs}.layer_norm.weight", "D -> D"),
        *(
            (f"{ours}.{mine}.kernel", f"{theirs}.{name}.{letter}.weight", "(N H) D -> D N H")
            for mine, letter in parts
        ),
        (f"{ours}.out.kernel", f"{theirs}.{name}.o.weight", "D (N H) -> N H D"),
    )


def _mlp(theirs: str, *, is_gated: bool) -> Names:
    up, gate = ("wi_1", "wi_0") if is_gated else ("wi", "")
    return (
        ("mlp_norm.scale", f"{theirs}.layer_norm.weight", "D -> D"),
        ("mlp.up.kernel", f"{theirs}.DenseReluDense.{up}.weight", "F D -> D F"),
        ("mlp.gate.kernel", f"{theirs}.DenseReluDense.{gate}.weight", "F D -> D F"),
        ("mlp.down.kernel", f"{theirs}.DenseReluDense.wo.weight", "D F -> F D"),
    )


def _rows(config: EncoderDecoderConfig) -> Rows:
    itself = _attention("attention", "attention_norm", "layer.0", "SelfAttention")
    source = _attention("memory_attention", "memory_norm", "layer.1", "EncDecAttention")
    blocks = {
        "encoder": (*itself, *_mlp("layer.1", is_gated=config.is_gated)),
        "decoder": (*itself, *source, *_mlp("layer.2", is_gated=config.is_gated)),
    }
    rows = [
        Row("embed.table", "shared.weight", "V D -> V D"),
        Row("out.kernel", "lm_head.weight", "V D -> D V"),
    ]
    for half, block in blocks.items():
        # The first block has the biases of all.
        bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows += [
            Row(f"{half}.bias.table", bias, "B N -> B N"),
            Row(f"{half}.norm.scale", f"{half}.final_layer_norm.weight", "D -> D"),
            *under((f"{half}.blocks.layers.", f"{half}.block.{{layer}}."), block),
        ]
    return rows


def _read(theirs: Theirs) -> dict[str, Any]:
    return {
        "num_decoder_layers": theirs.get("num_decoder_layers", None),
        "start_id": theirs.get("decoder_start_token_id", None) or 0,
        "forced_end_id": theirs.get("forced_eos_token_id", None),
        **_read_mlp(theirs),
        **_read_output(theirs),
    }


def _read_mlp(theirs: Theirs) -> dict[str, Any]:
    kind = theirs.get("feed_forward_proj", "relu")
    name, is_gated = kind.removeprefix(_GATED), kind.startswith(_GATED)
    if kind == "gated-gelu":  # the one name that means the tanh form here
        name = "gelu_new"
    if name not in ACTIVATIONS:
        theirs.refuse(f"feed_forward_proj={kind!r} is not known here")
    # What transformers 5 writes beside it.
    theirs.expect("dense_act_fn", name)
    theirs.expect("is_gated_act", is_gated)
    return {"activation": ACTIVATIONS[name], "is_gated": is_gated}


def _read_output(theirs: Theirs) -> dict[str, Any]:
    """Tied outputs are scaled; what transformers 5 calls tied but not scaled it had read untied."""
    is_tied = theirs.get("tie_word_embeddings", True)
    if not is_tied:
        theirs.expect("scale_decoder_outputs", False)
    is_tied = theirs.get("scale_decoder_outputs", is_tied)
    return {"is_tied": is_tied, "is_output_scaled": is_tied}


def _write(config: EncoderDecoderConfig) -> dict[str, Any]:
    if config.is_gated and config.activation == "gelu":
        kind = "gated-gelu"
    else:
        name = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
        kind = _GATED + name if config.is_gated else name
    return {
        "num_decoder_layers": config.decoder.num_layers,
        "d_ff": config.mlp_size,
        "d_kv": config.head_size,
        "feed_forward_proj": kind,
        "decoder_start_token_id": config.start_id,
        "tie_word_embeddings": config.is_tied,
        "scale_decoder_outputs": config.is_output_scaled,
        "is_encoder_decoder": True,
        **({} if config.forced_end_id is None else {"forced_eos_token_id": config.forced_end_id}),
    }


def _ignored(config: EncoderDecoderConfig) -> tuple[str, ...]:
    """Copies of the embedding, and biases of attention to the source that nothing reads."""
    copies = r"(encoder|decoder)\.embed_tokens\.weight"
    unread = r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight"
    return (copies, unread, *((r"lm_head\.weight",) if config.is_tied else ()))


FAMILY = Family(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    config_type=EncoderDecoderConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("embed_dim", "d_model"),
        Field("head_dim", "d_kv"),
        Field("mlp_dim", "d_ff"),
        Field("num_layers", "num_layers"),
        Field("num_heads", "num_heads"),
        Field("max_length", "n_positions", 1024),
        Field("num_buckets", "relative_attention_num_buckets", 32),
        Field("max_distance", "relative_attention_max_distance", 128),
        Field("norm_epsilon", "layer_norm_epsilon", 1e-6),
    ),
    fixed={"norm": "rms", "positions": "relative", "query_scale": 1.0},
    read=_read,
    write=_write,
    rows=_rows,
    inert=frozenset({"dropout_rate", "output_past"}),
    ignored=_ignored,
)
