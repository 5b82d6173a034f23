"""A source is read at once, and each token of its target is told from those before it.

B batch, S source length, T target length, V vocabulary.

    encoder_tokens  int32   (B, S)  the sources
    encoder_mask    float32 (B, S)  1 where a source has a token, 0 where it is filled up
    targets         int32   (B, T)  the targets, filled up with any ids
    loss_mask       float32 (B, T)  1 where a target is scored, 0 where it is filled up
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.objectives.base import Batch
from jaxllm.parallel.layouts import Layout

FIELDS = ("encoder_tokens", "encoder_mask", "targets", "loss_mask")


def teacher_forced(
    model: Any,
    batch: Batch,
    *,
    keys_B: jax.Array | None = None,
    layout: Layout | None = None,
) -> jax.Array:
    """logits_BTV of the targets: an encoder-decoder reads those before each, whatever it told.

    What a target begins with is the model's (`start_id`), so that no data needs to know it.
    """
    return model(
        batch["encoder_tokens"],
        decoder_tokens(batch["targets"], start_id=model.config.start_id),
        encoder_mask_BS=batch["encoder_mask"],
        keys_B=keys_B,
        layout=layout,
    )


def decoder_tokens(targets_BT: jax.Array, *, start_id: int) -> jax.Array:
    """What the decoder reads to tell these targets: the same one place later."""
    start_B1 = jnp.full_like(targets_BT[:, :1], start_id)
    return jnp.concatenate([start_B1, targets_BT[:, :-1]], axis=1)


def batch_shapes(rows: int, *, source: int, target: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch's fields, its rows' numbers among them."""
    sizes = dict(zip(FIELDS, (source, source, target, target), strict=True))
    fields = {
        name: jax.ShapeDtypeStruct((rows, size), jnp.float32 if "mask" in name else jnp.int32)
        for name, size in sizes.items()
    }
    return {**fields, "example_index": jax.ShapeDtypeStruct((rows,), jnp.uint32)}
