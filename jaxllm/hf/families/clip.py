"""CLIP: texts and images compared (arXiv:2103.00020)."""

from typing import Any

from jaxllm.hf.base import ACTIVATIONS, Family, Field, Row, Rows, read_fields, under, write_fields
from jaxllm.hf.encoder_names import block, norm, patches
from jaxllm.hf.theirs import Theirs
from jaxllm.models.two_towers_config import TwoTowersConfig

_TEXT = (
    Field("text.vocab_size", "vocab_size", 49408),
    Field("text.max_length", "max_position_embeddings", 77),
    Field("text.num_layers", "num_hidden_layers", 12),
    Field("text.embed_dim", "hidden_size", 512),
    Field("text.num_heads", "num_attention_heads", 8),
    Field("text.mlp_dim", "intermediate_size", 2048),
    Field("text.activation", "hidden_act", "quick_gelu", ACTIVATIONS),
    Field("text.norm_epsilon", "layer_norm_eps", 1e-5),
)
_VISION = (
    Field("vision.image_size", "image_size", 224),
    Field("vision.patch_size", "patch_size", 32),
    Field("vision.num_channels", "num_channels", 3),
    Field("vision.num_layers", "num_hidden_layers", 12),
    Field("vision.embed_dim", "hidden_size", 768),
    Field("vision.num_heads", "num_attention_heads", 12),
    Field("vision.mlp_dim", "intermediate_size", 3072),
    Field("vision.activation", "hidden_act", "quick_gelu", ACTIVATIONS),
    Field("vision.norm_epsilon", "layer_norm_eps", 1e-5),
)
_FIXED = {
    "text.norm": "layer",
    "text.use_bias": True,
    "text.is_gated": False,
    "text.positions": "learned",
    "text.is_tied": True,
    "vision.norm": "layer",
    "vision.use_bias": True,
    "vision.is_gated": False,
    "vision.has_patch_bias": False,
    "vision.has_input_norm": True,
    "vision.head": "none",
}
# The end token that configs once named by mistake. It means: the token with the highest id.
_MISTAKEN_END = 2
# Older versions wrote every setting of text generation into both towers.
_OF_GENERATION = """
    add_cross_attention bad_words_ids begin_suppress_tokens cross_attention_hidden_size
    diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty length_penalty min_length no_repeat_ngram_size
    num_beam_groups num_return_sequences output_scores prefix projection_dim pruned_heads
    remove_invalid_values repetition_penalty return_dict_in_generate suppress_tokens temperature
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings top_k top_p torchscript typical_p
    use_bfloat16
"""

_BLOCK = block(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    out="self_attn.out_proj",
    up="mlp.fc1",
    down="mlp.fc2",
    attention_norm="layer_norm1",
    mlp_norm="layer_norm2",
)


def _rows(config: TwoTowersConfig) -> Rows:
    patch = patches(config.vision.patch_size)
    text = (
        ("embed.table", "embeddings.token_embedding.weight", "V D -> V D"),
        ("position_embed.table", "embeddings.position_embedding.weight", "T D -> T D"),
        *norm("norm", "final_layer_norm"),
    )
    vision = (
        ("patch_embed.kernel", "embeddings.patch_embedding.weight", patch),
        ("class_embed", "embeddings.class_embedding", "D -> D"),
        ("position_embed.table", "embeddings.position_embedding.weight", "T D -> T D"),
        *norm("input_norm", "pre_layrnorm"),  # spelled so
        *norm("norm", "post_layernorm"),
    )
    return [
        *under(("text.", "text_model."), text),
        *under(("text.blocks.layers.", "text_model.encoder.layers.{layer}."), _BLOCK),
        *under(("vision.", "vision_model."), vision),
        *under(("vision.blocks.layers.", "vision_model.encoder.layers.{layer}."), _BLOCK),
        Row("text_projection.kernel", "text_projection.weight", "P D -> D P"),
        Row("vision_projection.kernel", "visual_projection.weight", "P D -> D P"),
        Row("log_scale", "logit_scale", "->"),
    ]


def _read(theirs: Theirs) -> dict[str, Any]:
    # Where the second spelling is there too, it is the one that counts.
    text = theirs.section("text_config_dict", "text_config")
    vision = theirs.section("vision_config_dict", "vision_config")
    ours = {**read_fields(text, _TEXT), **read_fields(vision, _VISION)}
    for key in ("image_size", "patch_size"):
        if not isinstance(ours[f"vision.{key}"], int):
            vision.refuse(f"{key}={ours[f'vision.{key}']} cannot be expressed here, only squares")
    end = text.get("eos_token_id", 49407)
    for tower in (text, vision):
        tower.check_all_read(frozenset(_OF_GENERATION.split()))
    return {**ours, "end_id": None if end == _MISTAKEN_END else end}


def _write(config: TwoTowersConfig) -> dict[str, Any]:
    end = _MISTAKEN_END if config.end_id is None else config.end_id
    width = {"projection_dim": config.projection_dim}
    text = {"model_type": "clip_text_model", "eos_token_id": end, **width}
    vision = {"model_type": "clip_vision_model", **width}
    return {
        "text_config": text | write_fields(config, _TEXT),
        "vision_config": vision | write_fields(config, _VISION),
    }


FAMILY = Family(
    model_type="clip",
    architecture="CLIPModel",
    config_type=TwoTowersConfig,
    fields=(
        Field("projection_dim", "projection_dim", 512),
        Field("initial_log_scale", "logit_scale_init_value", 2.6592),
    ),
    fixed=_FIXED,
    read=_read,
    write=_write,
    rows=_rows,
    ignored=lambda config: (r".*\.position_ids",),  # 0, 1, 2, ..., saved by older versions
)
