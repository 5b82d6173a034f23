"""Classification of pictures.

B batch, H height, W width, C channels of a pixel, L classes.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums, Vocabulary
from jaxllm.objectives.pixels import PixelConfig
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.parallel.layouts import Layout


class ImageClassification(PredictingObjective):
    """Cross-entropy of the class of each picture (arXiv:2010.11929)."""

    type: Literal["image_classification"] = "image_classification"
    """Kind of objective: the class of a picture."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread evenly over all classes (arXiv:1512.00567)."""
    pixels: PixelConfig = PixelConfig()
    """How pixels become numbers."""

    loss_unit: ClassVar[str] = "nats per picture"
    batch_fields: ClassVar[tuple[str, ...]] = ("pixels", "label", "loss_mask")
    """The fields of a batch that this objective reads.

        pixels (B, H, W, C), uint8, or float32 where they are normalised already; label (B,);
        loss_mask (B,).
        """

    def num_ids(self, vocabulary: Vocabulary) -> int:
        """Ids that the model must know: it reads no tokens."""
        return 0

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`logits` (B, L) of the classes, float32; the batch needs no label."""
        pixels_BHWC = self.pixels(batch["pixels"], keys_B=keys_B)
        encoded = model(pixels_BHWC, keys_B=keys_B, layout=layout)
        return {"logits": encoded.logits.astype(jnp.float32)}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions, and the likelihood of the classes without smoothing."""
        logits_BL = predictions["logits"]
        nll_B, log_normalizer_B = cross_entropy(logits_BL, batch["label"])
        loss_B = nll_B
        if self.label_smoothing:
            of_any_B = log_normalizer_B - jnp.mean(logits_BL, axis=-1)
            loss_B = (1 - self.label_smoothing) * nll_B + self.label_smoothing * of_any_B
        mask_B = batch["loss_mask"].astype(jnp.float32)
        return LossSums(jnp.sum(loss_B * mask_B), jnp.sum(nll_B * mask_B), jnp.sum(mask_B))
