"""Questions that are answered by a piece of a text: where it begins, and where it ends.

B batch, T length.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import PositiveInt

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout

_NOT_THERE = -1e30
"""The score of a place that no answer begins or ends at; its likelihood is exactly 0."""


class QuestionAnswering(PredictingObjective):
    """Cross-entropy of the first and of the last token of each answer (BERT, section 4.2,
    https://arxiv.org/abs/1810.04805): the mean of both, over the tokens of a row."""

    type: Literal["question_answering"] = "question_answering"
    """Kind of objective: the first and the last token of an answer."""
    max_answer_tokens: PositiveInt = 30
    """Longest answer that is given, in tokens; longer ones are learned, but not told."""

    loss_unit: ClassVar[str] = "nats per question"
    batch_fields: ClassVar[tuple[str, ...]] = (*FIELDS, "token_types")
    """The fields of a batch that this objective reads."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`logits` (B, T, 2) of beginning and end, float32; the batch needs no label.

        In filling there is no answer: scores do not depend on how far rows are filled up.
        """
        logits_BT2 = sequence_scores(model, batch, keys_B=keys_B, layout=layout)
        is_text_BT1 = (batch["segment_ids"] > 0)[..., None]
        return {"logits": jnp.where(is_text_BT1, logits_BT2, _NOT_THERE)}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions."""
        logits_B2T = jnp.swapaxes(predictions["logits"], 1, 2)
        nll_B2, _ = cross_entropy(logits_B2T, batch["label"])
        mask_B = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(jnp.mean(nll_B2, axis=1) * mask_B)
        return LossSums(nll, nll, jnp.sum(mask_B))
