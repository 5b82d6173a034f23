"""Sentence embeddings: texts that belong together are near each other, and far from all others.

B batch, N both texts of each pair, T length, D embed.
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import PositiveFloat

from jaxllm.objectives.base import Batch, LossSums
from jaxllm.objectives.in_batch import in_batch_sums, unit
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.parallel.layouts import Layout

_TEXT = ("tokens", "segment_ids", "positions")
_OTHER = "other_"


class Contrastive(PredictingObjective):
    """Cross-entropy of the text that goes with a text, among those of the whole global batch.

    As the multiple negatives ranking loss (arXiv:1705.00652, section 4.4; arXiv:1908.10084). More
    rows in a batch make a harder and better task, so that losses of other batch sizes, a validation
    set's last batch among them, are no measure of each other.
    """

    type: Literal["contrastive"] = "contrastive"
    """Kind of objective: texts in pairs."""
    scale: PositiveFloat = 20.0
    """Factor of the cosine of two texts, the inverse of a temperature."""
    is_symmetric: bool = False
    """Whether the first text of a pair is also told by the second."""
    pooling: Literal["mean", "first"] = "mean"
    """What stands for a text: the mean of its tokens' states, or the state of the first."""

    texts_per_row: ClassVar[int] = 2
    loss_unit: ClassVar[str] = "nats per pair"
    batch_fields: ClassVar[tuple[str, ...]] = (
        *_TEXT,
        *(_OTHER + name for name in _TEXT),
        "loss_mask",
    )
    """The fields of a batch that this objective reads.

        tokens, positions (B, T), and segment_ids (B, T), which are 1 for the tokens of a text and 0
        behind it; the same of the second texts as other_tokens, other_positions and
        other_segment_ids; loss_mask (B,).
        """

    label_fields: ClassVar[tuple[str, ...]] = ()
    """The fields of a batch that predictions are compared with: none, only with each other."""

    compared: ClassVar[tuple[str, str]] = ("embedding", "other_embedding")
    """The predictions that are near each other where they belong together."""

    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """`embedding` (B, D) of each text, of length 1, float32; of pairs also `other_embedding`.

        The batch needs no loss_mask, and no second texts.
        """
        if _OTHER + "tokens" not in batch:
            return {"embedding": self._embed(model, batch, keys_B, layout)}
        # Both texts of a row lie on its device, and go through the network together.
        both = {
            name: jnp.stack([batch[name], batch[_OTHER + name]], axis=1).reshape(
                -1, batch[name].shape[1]
            )
            for name in _TEXT
        }
        x_ND = self._embed(model, both, _keys_of_both(keys_B), layout)
        return {"embedding": x_ND[::2], "other_embedding": x_ND[1::2]}

    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions of pairs."""
        return in_batch_sums(
            self.scale * predictions["embedding"],
            predictions["other_embedding"],
            batch["loss_mask"],
            is_symmetric=self.is_symmetric,
            layout=layout,
        )

    def _embed(
        self, model: Any, texts: Batch, keys_B: jax.Array | None, layout: Layout | None
    ) -> jax.Array:
        encoded = model(
            texts["tokens"],
            segment_ids_BT=texts["segment_ids"],
            positions_BT=texts["positions"],
            keys_B=keys_B,
            layout=layout,
        )
        if self.pooling == "first":
            return unit(encoded.hidden_BTD[:, 0])
        is_text_BT = (texts["segment_ids"] > 0).astype(jnp.float32)
        summed_BD = jnp.einsum("BTD,BT->BD", encoded.hidden_BTD.astype(jnp.float32), is_text_BT)
        # Only its direction counts: the mean is as good as the sum.
        return unit(summed_BD)


def _keys_of_both(keys_B: jax.Array | None) -> jax.Array | None:
    """A key for each text of each pair."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.split(key))(keys_B).reshape(-1)
