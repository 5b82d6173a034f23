"""What the head of an encoder scores of whole texts, for the objectives of these.

B batch, T length, C scores of a text.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.objectives.base import Batch
from jaxllm.parallel.layouts import Layout

FIELDS = ("tokens", "segment_ids", "positions", "label", "loss_mask")
"""The fields of a batch that are read; of pairs also token_types."""


def sequence_scores(
    model: Any, batch: Batch, *, keys_B: jax.Array | None, layout: Layout | None
) -> jax.Array:
    """(B, C) in float32; the batch needs no label."""
    # A model without types tells the texts of a pair apart by the tokens between them.
    types_BT = None if model.type_embed is None else batch.get("token_types")
    encoded = model(
        batch["tokens"],
        segment_ids_BT=batch["segment_ids"],
        token_types_BT=types_BT,
        positions_BT=batch["positions"],
        keys_B=keys_B,
        layout=layout,
    )
    return encoded.logits.astype(jnp.float32)
