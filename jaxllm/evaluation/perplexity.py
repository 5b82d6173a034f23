"""Loss, perplexity and bits per byte of a validation set, every token scored once."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from pydantic import PositiveInt

from jaxllm.generation.beam import BeamSearch
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.shard import global_batch
from jaxllm.schema import Config

IN_FLIGHT = 2  # batches that wait for the device; more would fill its memory, and hide a stop


class EvaluationConfig(Config):
    """When validation sets and tasks are scored; always at the end of a run."""

    every: PositiveInt | None = None
    """Steps between evaluations; null scores only at the end."""
    compare_xz: bool = False
    """Whether the summary tells what `xz -9e` reaches on the same validation text."""
    baseline: Literal["tfidf"] | None = None
    """What classes are told by at the end too, to compare with: logistic regression on the words
    of the same rows (tfidf); null is nothing."""
    search: BeamSearch = BeamSearch()
    """How targets are written where a run writes some, for figures of them and by `predict`."""
    tasks: tuple[str, ...] = ()
    """Tasks of the lm-evaluation-harness that are scored too, by name; needs jaxllm[lm-eval]."""
    tasks_path: str | None = None
    """Folder with YAML files of tasks, beside those that come with the harness; null is none."""
    tasks_limit: PositiveInt | None = None
    """Examples scored of each task; null scores all."""


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


class ValidationSet(Protocol):
    """This host's batches of a text, and the size of the text in UTF-8 bytes, if known."""

    raw_bytes: int | None

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


def score_sets(
    eval_step: EvalFn,
    params: Any,
    sets: Mapping[str, ValidationSet],
    *,
    layout: Layout,
    rows: int,
    on_batch: Callable[[], None] = lambda: None,
) -> dict[str, Score]:
    """The score of each set by its name; batches are of `rows` rows over all hosts.

    on_batch: called after each batch, at most a few batches before it is done.
    """
    return {
        name: score(eval_step, params, batches, layout=layout, rows=rows, on_batch=on_batch)
        for name, batches in sets.items()
    }


def score(
    eval_step: EvalFn,
    params: Any,
    batches: ValidationSet,
    *,
    layout: Layout,
    rows: int,
    on_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Sum over all batches; the device is read once, at the end. on_batch: see `score_sets`."""
    sums: list[LossSums] = []
    for batch in batches:
        sums.append(eval_step(params, global_batch(layout, batch, rows=rows)))
        if len(sums) > IN_FLIGHT:
            jax.block_until_ready(sums[-1 - IN_FLIGHT])
        on_batch()
    # Summed in float64 on the host: thousands of batches would lose digits in float32.
    totals = np.sum([[float(s.nll), float(s.num_tokens)] for s in jax.device_get(sums)], axis=0)
    if not totals[1]:
        raise ValueError(
            "nothing of a validation set is scored, as it is so short; give it more text, or set "
            "evaluation.every=null and hold nothing out (data.datasets.NAME.validation_every=0)"
        )
    return Score(nll=float(totals[0]), num_tokens=int(totals[1]), raw_bytes=batches.raw_bytes)
