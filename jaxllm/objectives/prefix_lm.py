"""Prefix language modelling: the beginning of a row is read at once, the rest is predicted.

B batch, T length, V vocabulary.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import (
    Arrange,
    Batch,
    HostBatch,
    LossSums,
    Objective,
    Vocabulary,
    row_generators,
)
from jaxllm.objectives.teacher_forcing import teacher_forced
from jaxllm.parallel.layouts import Layout


class PrefixLm(Objective):
    """Cross-entropy of the tokens behind a prefix (arXiv:1910.10683, section 3.2.1).

    Rows are cut at a random place. An encoder-decoder has the prefix as its source; in a decoder
    every token of the prefix sees all of it, within its document, and the others what is before
    them. Both tell the same targets.
    """

    type: Literal["prefix_lm"] = "prefix_lm"
    """Kind of objective: what follows a prefix."""

    batch_fields: ClassVar[tuple[str, ...]] = (
        "tokens",
        "targets",
        "segment_ids",
        "positions",
        "prefix_mask",
        "loss_mask",
    )
    """The fields of a batch that this objective reads."""

    def arranged(self, rows: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what `arrangement` makes of rows of these."""
        return {**rows, "prefix_mask": rows["loss_mask"]}

    def arrangement(self, vocabulary: Vocabulary, *, seed: int) -> Arrange:
        """What cuts the rows of a batch."""
        return partial(_cut, seed=seed)

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over the targets where loss_mask is on."""
        router = None
        if model.config.type == "encoder_decoder":
            batch = divided(batch)
            logits_BTV = teacher_forced(model, batch, keys_B=keys_B, layout=layout)
        else:
            x_BTD, router = model.hidden(
                batch["tokens"],
                segment_ids_BT=batch["segment_ids"],
                positions_BT=batch["positions"],
                prefix_BT=batch["prefix_mask"],
                keys_B=keys_B,
                layout=layout,
            )
            logits_BTV = model.logits(x_BTD, layout=layout)
        nll_BT, _ = cross_entropy(logits_BTV, batch["targets"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        return LossSums(nll, nll, jnp.sum(mask_BT), router)


def _cut(batch: HostBatch, *, seed: int) -> HostBatch:
    """The rows with their prefixes, of one token at least; what is in them is not scored."""
    places_T = np.arange(batch["tokens"].shape[1])
    # Within what is scored: the last row of a set is filled up.
    scored_B = np.max((batch["loss_mask"] > 0) * (places_T + 1), axis=1, initial=1)
    prefix_B = np.array(
        [
            one.integers(1, scored + 1)
            for one, scored in zip(row_generators(batch, seed), scored_B.tolist(), strict=True)
        ]
    )
    is_told_BT = places_T >= prefix_B[:, None] - 1  # the prefix's last token tells the first target
    return {
        **batch,
        "prefix_mask": (places_T < prefix_B[:, None]).astype(np.float32),
        "loss_mask": batch["loss_mask"] * is_told_BT.astype(np.float32),
    }


def divided(batch: Batch) -> Batch:
    """Sources and targets of rows with prefixes; both are filled up to whole rows.

    The documents of a row are read together.
    """
    length = batch["tokens"].shape[1]
    prefix_B1 = jnp.sum(batch["prefix_mask"], axis=1, keepdims=True).astype(jnp.int32)
    place_BT = prefix_B1 - 1 + jnp.arange(length)
    is_there_BT = place_BT < length
    place_BT = jnp.minimum(place_BT, length - 1)
    mask_BT = jnp.take_along_axis(batch["loss_mask"], place_BT, axis=1)
    return {
        "encoder_tokens": batch["tokens"],
        "encoder_mask": batch["prefix_mask"],
        "targets": jnp.take_along_axis(batch["targets"], place_BT, axis=1),
        "loss_mask": jnp.where(is_there_BT, mask_BT, 0.0),
    }
