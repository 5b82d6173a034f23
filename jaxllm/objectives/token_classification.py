"""Classification of the words of a text.

B batch, T length, C classes.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout


class TokenClassification(PredictingObjective):
    """Cross-entropy of the class of each word, told at its first token."""

    type: Literal["token_classification"] = "token_classification"
    """Kind of objective: the class of each word."""

    loss_unit: ClassVar[str] = "nats per word"
    batch_fields: ClassVar[tuple[str, ...]] = FIELDS
    """The fields of a batch that this objective reads."""

    label_fields: ClassVar[tuple[str, ...]] = ("label", "loss_mask")
    """The fields of a batch that predictions are compared with."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`logits` (B, T, C) of the classes, float32; the batch needs no label."""
        return {"logits": sequence_scores(model, batch, keys_B=keys_B, layout=layout)}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions."""
        nll_BT, _ = cross_entropy(predictions["logits"], batch["label"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        return LossSums(nll, nll, jnp.sum(mask_BT))
