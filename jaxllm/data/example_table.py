"""Examples as columns: each a field of all examples, in memory or on disk, by random access.

N examples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxllm.data.tokenizer import token_dtype

ColumnKind = Literal["tokens", "int32", "float32", "uint8"]
"""What the values of a column are; tokens take two bytes where the vocabulary allows it."""
Encoded = Mapping[str, np.ndarray]
"""The fields of one example, each of one dimension and of any length."""


def column_dtype(kind: ColumnKind, *, vocab_size: int) -> np.dtype:
    """The type of a column's values on disk, little-endian."""
    dtype = token_dtype(vocab_size) if kind == "tokens" else np.dtype(kind)
    return dtype.newbyteorder("<")


class Column:
    """The values of one field: an array for each example."""

    def __init__(self, values: np.ndarray, spans: np.ndarray) -> None:
        """values: of all examples, one behind the other. spans: where each one's lie, (N, 2)."""
        self._values, self._spans = values, spans
        self.sizes: np.ndarray = spans[:, 1] - spans[:, 0]
        """How many values each example has, (N,)."""

    @property
    def dtype(self) -> np.dtype:
        """The type of a value."""
        return self._values.dtype

    def __getitem__(self, number: int) -> np.ndarray:
        """The values of one example; they may lie on disk."""
        start, stop = self._spans[number].tolist()
        return self._values[start:stop]

    def scalars(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """The first value of each of these examples, in memory."""
        return self.values_at(np.asarray(numbers, np.int64), 0)

    def values_at(self, numbers: np.ndarray, places: np.ndarray | int) -> np.ndarray:
        """Of each of these examples the value at a place, from 0, in memory."""
        return np.asarray(self._values[self._spans[numbers, 0] + places])

    def select(self, numbers: np.ndarray) -> "Column":
        """The column of these examples, in this order."""
        return Column(self._values, self._spans[numbers])


@dataclass(frozen=True)
class Table:
    """Columns by name, of the same examples."""

    columns: dict[str, Column]
    num_examples: int
    fingerprint: str
    """Changes when the examples do."""

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def select(self, numbers: np.ndarray, *, fingerprint: str) -> "Table":
        """The table of these examples, in this order."""
        columns = {name: column.select(numbers) for name, column in self.columns.items()}
        return Table(columns, len(numbers), fingerprint)


def table_of(examples: Iterable[Encoded]) -> Table:
    """A table in memory, of examples that all have the same fields."""
    rows = list(examples)
    assert rows
    columns = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        columns[name] = Column(np.concatenate(parts), spans_of(np.cumsum([len(p) for p in parts])))
    return Table(columns, len(rows), fingerprint="")


def spans_of(stops: np.ndarray) -> np.ndarray:
    """Where arrays lie that stand one behind the other: (N, 2) of where each ends, (N,)."""
    stops = np.asarray(stops, np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), stops[:-1]])
    return np.stack([starts[: len(stops)], stops], axis=-1)
