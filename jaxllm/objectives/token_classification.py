"""Classification of the words of a text.

B batch, T length, C classes.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Arrange, Batch, LossSums, Vocabulary
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config


class TokenClassification(Config):
    """Cross-entropy of the class of each word, told at its first token."""

    type: Literal["token_classification"] = "token_classification"
    """Kind of objective: the class of each word."""

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch that this objective reads."""
        return FIELDS

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The fields of a batch that predictions are compared with."""
        return ("label", "loss_mask")

    @property
    def is_likelihood_of_text(self) -> bool:
        """Whether the sum over a text is its likelihood; of classes it is not."""
        return False

    def num_ids(self, vocabulary: Vocabulary) -> int:
        """Ids that the model must know."""
        return vocabulary.size

    def arrangement(self, vocabulary: Vocabulary, *, seed: int) -> Arrange | None:
        """Rows are read as the data has them."""
        return None

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over the tokens where loss_mask (B, T) is on."""
        return self.sums(self.predict(model, batch, keys_B=keys_B, layout=layout), batch)

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

    def sums(self, predictions: dict[str, jax.Array], batch: Batch) -> LossSums:
        """The loss of predictions."""
        nll_BT, _ = cross_entropy(predictions["logits"], batch["label"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        return LossSums(nll, nll, jnp.sum(mask_BT))
