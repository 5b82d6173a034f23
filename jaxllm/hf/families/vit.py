"""ViT, the vision transformer (arXiv:2010.11929)."""

from typing import Any

from jaxllm.hf.base import Family, Field, Row, Rows, under
from jaxllm.hf.encoder_names import (
    BLOCK_FIELDS,
    block,
    linear,
    norm,
    patches,
    read_labels,
    write_labels,
)
from jaxllm.hf.theirs import Theirs
from jaxllm.models.vision_config import VisionConfig

_HEADS = {"ViTModel": "pooler", "ViTForImageClassification": "image"}

_BLOCK = block(
    query="attention.attention.query",
    key="attention.attention.key",
    value="attention.attention.value",
    out="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention_norm="layernorm_before",
    mlp_norm="layernorm_after",
)


def _rows(config: VisionConfig) -> Rows:
    prefix = "" if config.head == "pooler" else "vit."
    embeddings = (
        ("patch_embed.kernel", "patch_embeddings.projection.weight", patches(config.patch_size)),
        ("patch_embed.bias", "patch_embeddings.projection.bias", "D -> D"),
        ("class_embed", "cls_token", "@0/1 @0/1 D -> D"),
        ("position_embed.table", "position_embeddings", "@0/1 T D -> T D"),
    )
    rest = (
        *norm("norm", f"{prefix}layernorm"),
        *linear("pooler.dense", f"{prefix}pooler.dense"),
        *linear("label_head", "classifier"),
    )
    return [
        *under(("", f"{prefix}embeddings."), embeddings),
        *under(("blocks.layers.", f"{prefix}encoder.layer.{{layer}}."), _BLOCK),
        *(Row(*names) for names in rest),
    ]


def _read(theirs: Theirs) -> dict[str, Any]:
    for key in ("image_size", "patch_size"):
        if not isinstance(theirs.get(key, 16), int):
            theirs.refuse(f"{key}={theirs.get(key)} cannot be expressed here, only squares")
    theirs.expect("pooler_act", "tanh")
    theirs.expect("pooler_output_size", None, theirs.get("hidden_size"))
    return {
        "attention_bias": "all" if theirs.get("qkv_bias", True) else "out",
        **read_labels(theirs),
    }


def _write(config: VisionConfig) -> dict[str, Any]:
    return {"qkv_bias": config.projection_bias == "all", **write_labels(config.num_labels)}


FAMILY = Family(
    model_type="vit",
    architecture="ViTModel",
    heads=_HEADS,
    config_type=VisionConfig,
    fields=(
        *BLOCK_FIELDS,
        Field("image_size", "image_size", 224),
        Field("patch_size", "patch_size", 16),
        Field("num_channels", "num_channels", 3),
    ),
    fixed={
        "norm_position": "pre",
        "norm": "layer",
        "use_bias": True,
        "is_gated": False,
        "has_patch_bias": True,
        "has_input_norm": False,
    },
    read=_read,
    write=_write,
    rows=_rows,
    inert=frozenset({"encoder_stride"}),
)
