"""A number of each whole text.

B batch.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout


class SequenceRegression(PredictingObjective):
    """Squared error of the number that belongs to each text."""

    type: Literal["sequence_regression"] = "sequence_regression"
    """Kind of objective: the number of a text."""

    loss_unit: ClassVar[str] = "mean squared error"
    batch_fields: ClassVar[tuple[str, ...]] = FIELDS
    """The fields of a batch that this objective reads; of pairs also token_types."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`value` (B,) of each text, float32; the batch needs no label."""
        scores_B1 = sequence_scores(model, batch, keys_B=keys_B, layout=layout)
        return {"value": jnp.squeeze(scores_B1, axis=1)}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions."""
        mask_B = batch["loss_mask"].astype(jnp.float32)
        squares = jnp.sum((predictions["value"] - batch["label"]) ** 2 * mask_B)
        return LossSums(squares, squares, jnp.sum(mask_B))
