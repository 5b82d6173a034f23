"""Masked language modelling: some tokens of a text are hidden, and told from all others.

B batch, T length, V vocabulary.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, model_validator

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
from jaxllm.parallel.layouts import Layout


class MaskedLm(Objective):
    """Cross-entropy of hidden tokens (BERT, arXiv:1810.04805), others in every epoch (RoBERTa)."""

    type: Literal["masked_lm"] = "masked_lm"
    """Kind of objective: hidden tokens."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are to be told."""
    random_rate: float = Field(0.1, ge=0, le=1)
    """Share of these that are replaced by any token of the vocabulary."""
    kept_rate: float = Field(0.1, ge=0, le=1)
    """Share of these that stay as they are; the rest is replaced by the mask."""
    whole_words: bool = False
    """Whether all tokens of a word are hidden together."""

    @model_validator(mode="after")
    def _shares_fit(self) -> "MaskedLm":
        if self.random_rate + self.kept_rate > 1:
            raise ValueError(
                f"random_rate={self.random_rate} and kept_rate={self.kept_rate} are more than 1 "
                "together; lower one of them"
            )
        return self

    batch_fields: ClassVar[tuple[str, ...]] = (
        "tokens",
        "targets",
        "segment_ids",
        "positions",
        "loss_mask",
    )
    """The fields of a batch that this objective reads."""

    def num_ids(self, vocabulary: Vocabulary) -> int:
        """Ids that the model must know: where the tokenizer has no mask there is one more."""
        return vocabulary.size + (vocabulary.mask_id is None)

    def arrangement(self, vocabulary: Vocabulary, *, seed: int) -> Arrange:
        """What hides tokens of a batch. ValueError where it is not known what a word is."""
        if self.whole_words and vocabulary.continues_word_V is None:
            raise ValueError(
                "objective.whole_words is true, but the tokenizer does not say which tokens go on "
                "with a word; set it to false, or take another data.tokenizer"
            )
        return partial(_hide, objective=self, vocabulary=vocabulary, seed=seed)

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over the targets where loss_mask is on."""
        encoded = model(
            batch["tokens"],
            segment_ids_BT=batch["segment_ids"],
            positions_BT=batch["positions"],
            keys_B=keys_B,
            layout=layout,
        )
        nll_BT, _ = cross_entropy(encoded.logits, batch["targets"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        return LossSums(nll, nll, jnp.sum(mask_BT))


def _hide(batch: HostBatch, *, objective: MaskedLm, vocabulary: Vocabulary, seed: int) -> HostBatch:
    """The batch with its own tokens as targets, some of them hidden and scored."""
    tokens_BT = batch["tokens"]
    # Rows overlap by the token that a decoder would predict; here each is scored where it stands.
    is_text_BT = ~np.isin(tokens_BT, vocabulary.special_ids) & (batch["loss_mask"] > 0)
    hidden_BT, seen_BT = np.zeros_like(is_text_BT), tokens_BT.copy()
    mask_id = vocabulary.size if vocabulary.mask_id is None else vocabulary.mask_id
    for row, generator in enumerate(row_generators(batch, seed)):
        chances_T = generator.random((tokens_BT.shape[1],))
        if objective.whole_words:
            assert vocabulary.continues_word_V is not None
            goes_on_T = vocabulary.continues_word_V[tokens_BT[row]] & is_text_BT[row]
            chances_T = chances_T[_word_starts(goes_on_T)]
        hidden_BT[row] = (chances_T < objective.rate) & is_text_BT[row]
        kinds_T = generator.random((tokens_BT.shape[1],))
        random_T = generator.integers(vocabulary.size, size=tokens_BT.shape[1], dtype=np.int32)
        masked_from = objective.random_rate + objective.kept_rate
        instead_T = np.where(kinds_T < objective.random_rate, random_T, tokens_BT[row])
        instead_T = np.where(kinds_T >= masked_from, mask_id, instead_T)
        seen_BT[row] = np.where(hidden_BT[row], instead_T, tokens_BT[row])
    return {
        **batch,
        "tokens": seen_BT,
        "targets": tokens_BT,
        "loss_mask": hidden_BT.astype(np.float32),
    }


def _word_starts(goes_on_T: np.ndarray) -> np.ndarray:
    """Of each token, the place of the first one of its word."""
    places_T = np.arange(len(goes_on_T))
    return np.maximum.accumulate(np.where(goes_on_T, 0, places_T))
