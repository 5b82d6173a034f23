"""Batches of rows of like length, sent to the devices ahead of their answers.

B rows of a batch, T = sequence length.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.data.batch import Batch, numbered
from jaxllm.data.example_table import Table
from jaxllm.data.examples import ExampleRows, ExamplesConfig
from jaxllm.nn.param import Nested
from jaxllm.tasks import Task

_AHEAD = 2  # batches that wait for the devices, so that these never wait for the host
_SHORTEST = 16  # positions; shorter rows gain nothing


class _Sent(NamedTuple):
    """Rows that the devices were given, by their numbers, and what comes back."""

    numbers: np.ndarray
    found: Any


class PredictionBatches:
    """Answers to tables of examples, by programs of a few lengths each."""

    def __init__(
        self, doing: Task, params: Nested, *, length: int, rows: int, num_devices: int
    ) -> None:
        """length, rows: of a batch of the longest rows; of shorter ones it has more."""
        self._task, self._params = doing, params
        self._length, self._rows, self._num_devices = length, rows, num_devices
        self._dims = _length_dims(doing.dataset)

    def answers(self, table: Table) -> list[dict[str, Any] | None]:
        """The answer to each example of a table, in order; None where the model gives a NaN."""
        rows = self._task.dataset.rows(table, self._length, tokenizer=self._task.tokenizer)
        found: list[dict[str, np.ndarray]] = [{} for _ in range(rows.num_rows)]
        for numbers, outputs in self._outputs(rows):
            for place, number in enumerate(numbers.tolist()):
                found[number] = {name: field[place] for name, field in outputs.items()}
        of_example: list[list[int]] = [[] for _ in range(rows.num_examples)]
        for row in range(rows.num_rows):
            of_example[rows.example_of(row)].append(row)
        return [
            None
            if any(_has_nan(found[row]) for row in numbers)
            else self._task.answer([found[row] for row in numbers], rows, numbers)
            for numbers in of_example
        ]

    def plan(self, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
        """(numbers of rows, rows of the batch, positions) of each batch, longest rows first.

        sizes: positions that each row fills. The last batch may have fewer rows than it has room.
        """
        order = np.argsort(-sizes, kind="stable")
        at = 0
        while at < len(order):
            length = self._bucket(int(sizes[order[at]]))
            rows = self._rows * self._length // length
            rows = max(rows // self._num_devices, 1) * self._num_devices
            yield order[at : at + rows], rows, length
            at += rows

    def _bucket(self, size: int) -> int:
        """The length of a batch for rows of a size: a power of two, or halfway to the next."""
        length = _SHORTEST
        while length < size:
            length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
        return min(length, self._length)

    def _outputs(self, rows: ExampleRows) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        sent: deque[_Sent] = deque()
        for numbers, size, length in self.plan(rows.sizes):
            batch = self._batch(rows, numbers, size, length)
            sent.append(_Sent(numbers, self._task.begin(self._params, batch)))
            if len(sent) > _AHEAD:
                done = sent.popleft()
                yield done.numbers, self._task.outputs(done.found)
        for done in sent:
            yield done.numbers, self._task.outputs(done.found)

    def _batch(self, rows: ExampleRows, numbers: np.ndarray, size: int, length: int) -> Batch:
        """These rows as a batch, filled up with its last one, and cut to `length`."""
        filled = np.concatenate([numbers, np.repeat(numbers[-1:], size - len(numbers))])
        batch = numbered(rows.read(filled.tolist()), filled)
        return {
            name: field[
                tuple(
                    slice(length) if dim in self._dims[name] else slice(None)
                    for dim in range(field.ndim)
                )
            ]
            for name, field in batch.items()
        }


def _has_nan(outputs: dict[str, np.ndarray]) -> bool:
    """Whether any of a row's outputs is not a number. What it says is then no answer."""
    return any(
        jax.dtypes.issubdtype(field.dtype, np.floating) and bool(np.isnan(field).any())
        for field in map(np.asarray, outputs.values())
    )


def _length_dims(dataset: ExamplesConfig) -> dict[str, tuple[int, ...]]:
    """Of each field of a batch, the dimensions that the length of rows decides."""
    one, other = dataset.shapes(1, 64), dataset.shapes(1, 128)
    return {
        name: tuple(
            dim
            for dim, sizes in enumerate(zip(field.shape, other[name].shape, strict=True))
            if sizes[0] != sizes[1]
        )
        for name, field in one.items()
    }
