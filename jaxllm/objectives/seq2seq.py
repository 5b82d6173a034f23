"""Sequence to sequence: a target is told from its source.

B batch, S source length, T target length, V vocabulary.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.objectives.teacher_forcing import FIELDS, teacher_forced
from jaxllm.parallel.layouts import Layout


class Seq2Seq(PredictingObjective):
    """Cross-entropy of each token of a target, given its source and the tokens before it."""

    type: Literal["seq2seq"] = "seq2seq"
    """Kind of objective: targets of sources."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target's probability that is spread evenly over all ids of the model
    (arXiv:1512.00567, section 7); it is in what is minimised, not in the loss that is told."""

    batch_fields: ClassVar[tuple[str, ...]] = FIELDS
    """The fields of a batch that this objective reads."""

    label_fields: ClassVar[tuple[str, ...]] = ("targets", "loss_mask")
    """The fields of a batch that hold what is to be predicted."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """What is made of each target, given the true ones before it, all (B, T).

        `nll`: -log p of it; `objective`: what is minimised; `likeliest`: the id that is told.

        With K ids and a smoothing of e, a target's probability is 1 - e + e / K and any other's
        e / K: e times the mean -log p over all ids is in the sum, and 1 - e times the target's.
        This is what transformers' label smoothing is; fairseq gives others e / (K - 1).
        """
        logits_BTV = teacher_forced(model, batch, keys_B=keys_B, layout=layout)
        nll_BT, log_normalizer_BT = cross_entropy(logits_BTV, batch["targets"])
        objective_BT, share = nll_BT, self.label_smoothing
        if share:
            mean_BT = jnp.mean(logits_BTV, axis=-1, dtype=jnp.float32)
            objective_BT = (1 - share) * nll_BT + share * (log_normalizer_BT - mean_BT)
        likeliest_BT = jnp.argmax(logits_BTV, axis=-1).astype(jnp.int32)
        return {"nll": nll_BT, "objective": objective_BT, "likeliest": likeliest_BT}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions."""
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        return LossSums(
            loss=jnp.sum(predictions["objective"] * mask_BT),
            nll=jnp.sum(predictions["nll"] * mask_BT),
            num_tokens=jnp.sum(mask_BT),
        )
