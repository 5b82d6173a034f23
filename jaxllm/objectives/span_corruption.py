"""Span corruption: spans of a text are hidden, each behind a sentinel, and told from all others.

B batch, L length of a row of text, S source length, T target length.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, PositiveInt

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
from jaxllm.objectives.teacher_forcing import FIELDS, batch_shapes, teacher_forced
from jaxllm.parallel.layouts import Layout


class SpanCorruption(Objective):
    """Cross-entropy of hidden spans (T5, arXiv:1910.10683, section 3.1.4), told by a decoder.

    Of a row of L tokens n = round(rate L) are hidden, in m = round(n / mean_span) spans. The
    source is the row with a sentinel instead of each span, L - n + m + 1 tokens; the target is
    the sentinels, each followed by its span, n + m + 1 tokens; a delimiter ends both. All rows
    thus have the same shape and no padding: 568 tokens are a source of 512 and a target of 114.
    """

    type: Literal["span_corruption"] = "span_corruption"
    """Kind of objective: hidden spans."""
    rate: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that are hidden."""
    mean_span: float = Field(3.0, ge=1)
    """Mean length of a hidden span, in tokens."""
    num_sentinels: PositiveInt = 100
    """Sentinels there are, one a span of a row: the tokenizer's own (<extra_id_0> and on), or ids
    behind the vocabulary where it has none."""

    batch_fields: ClassVar[tuple[str, ...]] = FIELDS
    """The fields of a batch that this objective reads."""

    def num_ids(self, vocabulary: Vocabulary) -> int:
        """Ids that the model must know: where the tokenizer has no sentinels there are more."""
        return vocabulary.size + (0 if vocabulary.sentinel_ids else self.num_sentinels)

    def spans(self, length: int) -> tuple[int, int]:
        """How many tokens of a row of `length` are hidden, and in how many spans.

        ValueError for rows that are too short or have more spans than there are sentinels.
        """
        if length < 2:
            raise ValueError(
                f"data.sequence_length={length}: of one token nothing can be hidden and be told "
                "from the rest; make it longer"
            )
        hidden = min(max(round(length * self.rate), 1), length - 1)
        # Between two spans there is a token at least.
        spans = min(max(round(hidden / self.mean_span), 1), length - hidden)
        if spans > self.num_sentinels:
            raise ValueError(
                f"objective.num_sentinels={self.num_sentinels}, but a row of data.sequence_length="
                f"{length} has {spans} hidden spans; raise num_sentinels or objective.mean_span, "
                "or shorten the rows"
            )
        return hidden, spans

    def lengths(self, length: int) -> tuple[int, int]:
        """S and T of rows of `length` tokens."""
        hidden, spans = self.spans(length)
        return length - hidden + spans + 1, hidden + spans + 1

    def arranged(self, rows: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of what `arrangement` makes of rows of these."""
        number, length = rows["tokens"].shape
        source, target = self.lengths(length)
        return batch_shapes(number, source=source, target=target)

    def arrangement(self, vocabulary: Vocabulary, *, seed: int) -> Arrange:
        """What hides spans of a batch. ValueError for a tokenizer with too few sentinels."""
        sentinels: tuple[int, ...] = vocabulary.sentinel_ids
        if not sentinels:
            # As T5's, they count down from the last id.
            last = vocabulary.size + self.num_sentinels
            sentinels = tuple(range(last - 1, vocabulary.size - 1, -1))
        if len(sentinels) < self.num_sentinels:
            raise ValueError(
                f"objective.num_sentinels={self.num_sentinels}, but the tokenizer has "
                f"{len(sentinels)} sentinels; set it to {len(sentinels)}"
            )
        assert vocabulary.delimiter_id is not None
        return partial(
            _corrupt,
            objective=self,
            sentinel_ids=np.array(sentinels, np.int32),
            end_id=vocabulary.delimiter_id,
            seed=seed,
        )

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over the targets where loss_mask is on."""
        logits_BTV = teacher_forced(model, batch, keys_B=keys_B, layout=layout)
        nll_BT, _ = cross_entropy(logits_BTV, batch["targets"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        return LossSums(nll, nll, jnp.sum(mask_BT))


def _corrupt(
    batch: HostBatch,
    *,
    objective: SpanCorruption,
    sentinel_ids: np.ndarray,
    end_id: int,
    seed: int,
) -> HostBatch:
    """Sources and targets of rows of text.

    As in T5, the documents of a row are read together, and a delimiter between them is a token
    like any other. What fills up a row is neither read nor scored; a sentinel is, where the first
    token of its span is text, and the end, where the last token of the row is.
    """
    tokens_BL, mask_BL = batch["tokens"], batch["loss_mask"].astype(np.float32)
    hidden, spans = objective.spans(tokens_BL.shape[1])
    is_hidden_BL = np.stack(
        [
            hidden_tokens(generator, tokens_BL.shape[1], hidden=hidden, spans=spans)
            for generator in row_generators(batch, seed)
        ]
    )
    is_first_BL = is_hidden_BL & ~np.pad(is_hidden_BL, ((0, 0), (1, 0)))[:, :-1]
    sentinel_BL = sentinel_ids[np.cumsum(is_first_BL, axis=1) - 1]

    def source(sentinel_BL: np.ndarray, tokens_BL: np.ndarray, end_B: np.ndarray) -> np.ndarray:
        seen_BL = np.where(is_first_BL, sentinel_BL, tokens_BL)[is_first_BL | ~is_hidden_BL]
        return np.column_stack([seen_BL.reshape(len(end_B), -1), end_B])

    def target(sentinel_BL: np.ndarray, tokens_BL: np.ndarray, end_B: np.ndarray) -> np.ndarray:
        each_BL2 = np.stack([sentinel_BL, tokens_BL], axis=-1)
        told_B = each_BL2[np.stack([is_first_BL, is_hidden_BL], axis=-1)]
        return np.column_stack([told_B.reshape(len(end_B), -1), end_B])

    ids = (sentinel_BL, tokens_BL, np.full(len(tokens_BL), end_id, np.int32))
    masks = (mask_BL, mask_BL, mask_BL[:, -1])
    return {
        "encoder_tokens": source(*ids),
        "encoder_mask": source(*masks),
        "targets": target(*ids),
        "loss_mask": target(*masks),
        "example_index": batch["example_index"],
    }


def hidden_tokens(
    generator: np.random.Generator, length: int, *, hidden: int, spans: int
) -> np.ndarray:
    """Which tokens of a row are hidden: exactly so many, in so many spans, any such equally likely.

    As T5 draws them, the row begins with a token that is seen and ends with a hidden one.
    """
    seen_M = _parts(generator, length - hidden, spans)
    hidden_M = _parts(generator, hidden, spans)
    lengths = np.stack([seen_M, hidden_M], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _parts(generator: np.random.Generator, total: int, count: int) -> np.ndarray:
    """Lengths of `count` parts of one token at least that are `total` together."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total)
