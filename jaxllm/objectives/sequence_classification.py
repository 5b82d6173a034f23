"""Classification of whole texts.

B batch, T length, C classes.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Arrange, Batch, LossSums, Vocabulary
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config


class SequenceClassification(Config):
    """Cross-entropy of the class of each text, of which it has one."""

    type: Literal["sequence_classification"] = "sequence_classification"
    """Kind of objective: the class of a text."""

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch that this objective reads; of pairs also token_types."""
        return ("tokens", "segment_ids", "positions", "label", "loss_mask")

    @property
    def label_fields(self) -> tuple[str, ...]:
        """The fields of a batch that predictions are compared with."""
        return ("label",)

    @property
    def is_likelihood_of_text(self) -> bool:
        """Whether the sum over a text is its likelihood; of a class it is not."""
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
        """`logits` (B, C) of the classes, float32; the batch needs no label."""
        # A model without types tells the texts of a pair apart by the tokens between them.
        types_BT = None if model.type_embed is None else batch.get("token_types")
        encoded = model(
            batch["tokens"],
            segment_ids_BT=batch["segment_ids"],
            token_types_BT=types_BT,
            positions_BT=batch["positions"],
            keys_B=keys_B,
            layout=layout,
        )
        return {"logits": encoded.logits.astype(jnp.float32)}

    def sums(self, predictions: dict[str, jax.Array], batch: Batch) -> LossSums:
        """The loss of predictions."""
        nll_B, _ = cross_entropy(predictions["logits"], batch["label"])
        mask_B = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_B * mask_B)
        return LossSums(nll, nll, jnp.sum(mask_B))
