"""What a model predicts of each row of a validation set.

B rows of a batch, N rows of a set.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.evaluation.perplexity import IN_FLIGHT, Score
from jaxllm.nn.param import bind
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.shard import global_batch

PredictFn = Callable[[Any, Batch], tuple[LossSums, dict[str, jax.Array]]]


class Predicted(NamedTuple):
    """The score of a set and what was predicted of each of its rows, in order.

    fields: arrays (N, ...), those of the objective's `predict` and its labels. source:
    the rows, of which the first N are meant.
    """

    score: Score
    fields: dict[str, np.ndarray]
    source: Any


def make_predict_step(objective: Any, model: Any, layout: Layout) -> PredictFn:
    """(params, batch) -> sums and predictions of the batch, on every process, without dropout."""

    def step(params: Any, batch: Batch) -> tuple[LossSums, dict[str, jax.Array]]:
        found = objective.predict(bind(model, params), batch, layout=layout)
        labels = {name: batch[name] for name in objective.label_fields}
        return objective.sums(found, batch, layout=layout), found | labels

    return jax.jit(step, out_shardings=layout.sharding())


def predict_set(
    step: PredictFn,
    params: Any,
    batches: Any,
    *,
    layout: Layout,
    rows: int,
    on_batch: Callable[[], None] = lambda: None,
) -> Predicted:
    """Predictions of all rows of `batches.source`. on_batch: see `score_sets`."""
    found: list[tuple[LossSums, dict[str, jax.Array]]] = []
    for batch in batches:
        found.append(step(params, global_batch(layout, batch, rows=rows)))
        if len(found) > IN_FLIGHT:
            # Off the devices, whose memory those of a whole set may not fit into.
            found[-1 - IN_FLIGHT] = jax.device_get(found[-1 - IN_FLIGHT])
        on_batch()
    sums, parts = zip(*jax.device_get(found), strict=True)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    score = Score(
        nll=sum(float(one.nll) for one in sums),
        num_tokens=int(sum(float(one.num_tokens) for one in sums)),
        raw_bytes=None,
    )
    # The last batch is filled up.
    fields = {name: field[: batches.source.num_rows] for name, field in whole.items()}
    return Predicted(score, fields, batches.source)
