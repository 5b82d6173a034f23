"""Loss, perplexity and bits per byte of a validation set, every token scored once."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from pydantic import PositiveInt

from jaxllm.objectives.base import Batch, LossSums
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.shard import global_batch
from jaxllm.schema import Config


class EvaluationConfig(Config):
    """When the validation sets are scored; always at the end of a run."""

    every: PositiveInt | None = None
    """Steps between evaluations; null scores only at the end."""
    compare_xz: bool = False
    """Whether the summary tells what `xz -9e` reaches on the same validation text."""


class Score(NamedTuple):
    """What a model makes of a text. nll in nats, raw_bytes of its UTF-8; None if unknown."""

    nll: float
    num_tokens: int
    raw_bytes: int | None

    @property
    def loss(self) -> float:
        """Mean -log p of a token, in nats."""
        return self.nll / self.num_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Summed -log2 p over raw UTF-8 bytes: comparable across tokenizers and with xz."""
        return None if self.raw_bytes is None else self.nll / math.log(2) / self.raw_bytes


EvalFn = Callable[[Any, Batch], LossSums]


def make_eval_step(loss: Callable[[Any, Batch, None], LossSums], layout: Layout) -> EvalFn:
    """(params, batch) -> sums over the batch, on every process, without dropout."""
    return jax.jit(lambda params, batch: loss(params, batch, None), out_shardings=layout.sharding())


def total(scores: Iterable[Score]) -> Score:
    """The score of several texts together; its bytes are known only if each one's are."""
    parts = list(scores)
    sizes = [part.raw_bytes for part in parts]
    return Score(
        nll=sum(part.nll for part in parts),
        num_tokens=sum(part.num_tokens for part in parts),
        raw_bytes=None if None in sizes else sum(size or 0 for size in sizes),
    )


def score(
    eval_step: EvalFn,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    layout: Layout,
    rows: int,
    raw_bytes: int | None,
) -> Score:
    """Sum over all batches of `rows` global rows each; the device is read once, at the end."""
    sums: list[LossSums] = []
    for batch in batches:
        sums.append(eval_step(params, global_batch(layout, batch, rows=rows)))
    # Summed in float64 on the host: thousands of batches would lose digits in float32.
    totals = np.sum([[float(s.nll), float(s.num_tokens)] for s in jax.device_get(sums)], axis=0)
    return Score(nll=float(totals[0]), num_tokens=int(totals[1]), raw_bytes=raw_bytes)
