"""Marian's translation models (aclanthology.org/P18-4020): the original Transformer."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field, Row, Rows, under
from jaxllm.hf.decoder_names import Names
from jaxllm.hf.encoder_names import linear, norm
from jaxllm.hf.theirs import Theirs
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig


def _attention(ours: str, theirs: str) -> Names:
    parts = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))
    return (
        *((f"{ours}.{a}.kernel", f"{theirs}.{b}.weight", "(N H) D -> D N H") for a, b in parts),
        *((f"{ours}.{a}.bias", f"{theirs}.{b}.bias", "(N H) -> N H") for a, b in parts),
        (f"{ours}.out.kernel", f"{theirs}.out_proj.weight", "D (N H) -> N H D"),
        (f"{ours}.out.bias", f"{theirs}.out_proj.bias", "D -> D"),
    )


_ENCODER: Names = (
    *_attention("attention", "self_attn"),
    *norm("attention_norm", "self_attn_layer_norm"),
    *linear("mlp.up", "fc1"),
    *linear("mlp.down", "fc2"),
    *norm("mlp_norm", "final_layer_norm"),
)
_DECODER: Names = (
    *_ENCODER,
    *_attention("memory_attention", "encoder_attn"),
    *norm("memory_norm", "encoder_attn_layer_norm"),
)


def _rows(config: EncoderDecoderConfig) -> Rows:
    return [
        Row("embed.table", "model.shared.weight", "V D -> V D"),
        Row("output_bias", "final_logits_bias", "@0/1 V -> V"),
        *under(("encoder.blocks.layers.", "model.encoder.layers.{layer}."), _ENCODER),
        *under(("decoder.blocks.layers.", "model.decoder.layers.{layer}."), _DECODER),
    ]


def _read(theirs: Theirs) -> dict[str, Any]:
    vocab_size, layers = theirs.get("vocab_size"), theirs.get("encoder_layers")
    theirs.expect("share_encoder_decoder_embeddings", True)
    theirs.expect("tie_word_embeddings", True)
    theirs.expect("decoder_vocab_size", vocab_size, None)
    # Keys of older versions, which have had one value in every published model.
    theirs.expect("normalize_before", False)
    theirs.expect("normalize_embedding", False)
    theirs.expect("add_final_layer_norm", False)
    theirs.expect("static_position_embeddings", True)
    theirs.expect("num_hidden_layers", layers)
    return {}


def _write(config: EncoderDecoderConfig) -> dict[str, Any]:
    return {
        "decoder_layers": config.decoder.num_layers,
        "decoder_attention_heads": config.decoder.num_heads,
        "encoder_ffn_dim": config.mlp_size,
        "decoder_ffn_dim": config.decoder.mlp_size,
        "decoder_vocab_size": config.vocab_size,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "is_encoder_decoder": True,
    }


FAMILY = Family(
    model_type="marian",
    architecture="MarianMTModel",
    config_type=EncoderDecoderConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("embed_dim", "d_model"),
        Field("num_layers", "encoder_layers"),
        Field("num_decoder_layers", "decoder_layers"),
        Field("num_heads", "encoder_attention_heads"),
        Field("num_decoder_heads", "decoder_attention_heads"),
        Field("mlp_dim", "encoder_ffn_dim"),
        Field("decoder_mlp_dim", "decoder_ffn_dim"),
        Field("max_length", "max_position_embeddings", 1024),
        Field("activation", "activation_function", "gelu", ACTIVATIONS),
        Field("is_embed_scaled", "scale_embedding", False),
        Field("start_id", "decoder_start_token_id"),
        Field("padding_id", "pad_token_id"),
        # Left out it is the end of every published model, as in transformers.
        Field("forced_end_id", "forced_eos_token_id", 0),
    ),
    fixed={
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "norm_position": "post",
        "use_bias": True,
        "is_gated": False,
        "positions": "sinusoidal",
        "is_tied": True,
        "has_output_bias": True,
    },
    read=_read,
    write=_write,
    rows=_rows,
    inert=frozenset(
        [
            "_num_labels",
            "activation_dropout",
            "add_bias_logits",
            "bad_words_ids",
            "classif_dropout",
            "decoder_layerdrop",
            "encoder_layerdrop",
            "extra_pos_embeddings",
            "init_std",
            "length_penalty",
        ]
    ),
    # What the embedding is tied to, and tables of sines that older versions saved.
    ignored=lambda config: (
        r"lm_head\.weight",
        r"model\.(encoder|decoder)\.embed_(tokens|positions)\.weight",
    ),
)
