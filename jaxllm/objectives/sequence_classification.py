"""Classification of whole texts.

B batch, C classes.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout


class SequenceClassification(PredictingObjective):
    """Cross-entropy of the class of each text, of which it has one, or of any number of them.

    Of any number each class is a question by itself, answered by yes or no, and the loss of a text
    is the mean over these.
    """

    type: Literal["sequence_classification"] = "sequence_classification"
    """Kind of objective: the class of a text."""
    is_multi_label: bool = False
    """Whether a text may have any number of classes, and not just one."""

    loss_unit: ClassVar[str] = "nats per text"
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
        """`logits` (B, C) of the classes, float32; the batch needs no label."""
        return {"logits": sequence_scores(model, batch, keys_B=keys_B, layout=layout)}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions."""
        logits_BC = predictions["logits"]
        if self.is_multi_label:
            nll_B = jnp.mean(_binary_cross_entropy(logits_BC, batch["label"]), axis=-1)
        else:
            nll_B, _ = cross_entropy(logits_BC, batch["label"])
        mask_B = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_B * mask_B)
        return LossSums(nll, nll, jnp.sum(mask_B))


def _binary_cross_entropy(logits: jax.Array, is_true: jax.Array) -> jax.Array:
    """-log of the likelihood of each answer, which is sigmoid(logit) for yes; finite for all."""
    return jax.nn.softplus(logits) - logits * is_true
