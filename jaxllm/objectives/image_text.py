"""Pictures and what is written of them, as vectors of one space.

B batch, T length, P width of the vectors.
"""

import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.in_batch import in_batch_sums
from jaxllm.objectives.pixels import PixelConfig
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.parallel.layouts import Layout

_MAX_LOG_SCALE = math.log(100.0)


class ImageText(PredictingObjective):
    """Cross-entropy of the text of each picture and of the picture of each text (CLIP).

    Among those of the whole global batch (arXiv:2103.00020, section 2.3). The scale of their
    products is learned, and taken for 100 where it is more (section 2.5).
    """

    type: Literal["image_text"] = "image_text"
    """Kind of objective: pictures with their texts."""
    pixels: PixelConfig = PixelConfig()
    """How pixels become numbers."""

    loss_unit: ClassVar[str] = "nats per pair"
    batch_fields: ClassVar[tuple[str, ...]] = ("tokens", "segment_ids", "pixels", "loss_mask")
    """The fields of a batch that this objective reads.

        tokens (B, T), and segment_ids (B, T), which are 1 for the tokens of a text and 0 behind it;
        pixels (B, H, W, C), uint8, or float32 where they are normalised already; loss_mask (B,).
        """

    label_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of a batch that predictions are compared with: none, only with each other."""

    compared: ClassVar[tuple[str, str]] = ("image_embedding", "embedding")
    """The predictions that are near each other where they belong together."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`embedding` (B, P) of each text and `image_embedding` of each picture, of length 1.

        Of what the batch has; with both also `scale` (B,), the factor of their products, the same
        in each row. All float32. The batch needs no loss_mask.
        """
        found = {}
        if "tokens" in batch:
            found["embedding"] = model.embed_texts(
                batch["tokens"],
                segment_ids_BT=batch["segment_ids"],
                keys_B=_keys_of(keys_B, 0),
                layout=layout,
            )
        if "pixels" in batch:
            pixels_BHWC = self.pixels(batch["pixels"], keys_B=keys_B)
            found["image_embedding"] = model.embed_images(
                pixels_BHWC, keys_I=_keys_of(keys_B, 1), layout=layout
            )
        if len(found) == 2:
            log_scale = model.log_scale[...]
            # Its gradient is what it would be at the limit, or it would never come back.
            most = jnp.minimum(log_scale, _MAX_LOG_SCALE)
            scale = jnp.exp(log_scale + jax.lax.stop_gradient(most - log_scale))
            found["scale"] = jnp.broadcast_to(scale, batch["tokens"].shape[:1])
        return found

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions of pairs."""
        return in_batch_sums(
            predictions["scale"][:, None] * predictions["image_embedding"],
            predictions["embedding"],
            batch["loss_mask"],
            is_symmetric=True,
            layout=layout,
        )


def _keys_of(keys_B: jax.Array | None, tower: int) -> jax.Array | None:
    """A key for each row of one of the towers."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, tower))(keys_B)
