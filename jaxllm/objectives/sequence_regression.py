"""A number of each whole text.

B batch.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.objectives.base import Arrange, Batch, LossSums, Vocabulary
from jaxllm.objectives.sequence_scores import FIELDS, sequence_scores
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config


class SequenceRegression(Config):
    """Squared error of the number that belongs to each text."""

    type: Literal["sequence_regression"] = "sequence_regression"
    """Kind of objective: the number of a text."""

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch that this objective reads; of pairs also token_types."""
        return FIELDS

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The fields of a batch that predictions are compared with."""
        return ("label",)

    @property
    def is_likelihood_of_text(self) -> bool:
        """Whether the sum over a text is its likelihood; of a number it is not."""
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
        """Sums over the rows where loss_mask is on."""
        return self.sums(self.predict(model, batch, keys_B=keys_B, layout=layout), batch)

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

    def sums(self, predictions: dict[str, jax.Array], batch: Batch) -> LossSums:
        """The loss of predictions."""
        mask_B = batch["loss_mask"].astype(jnp.float32)
        squares = jnp.sum((predictions["value"] - batch["label"]) ** 2 * mask_B)
        return LossSums(squares, squares, jnp.sum(mask_B))
