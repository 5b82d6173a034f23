"""Rows of a vocabulary that a published model does not have: tokens that are new.

Each begins as the mean of all rows that there are, for the embedding and for an output projection
of its own, and so does what they have one number of for each token. The likelihood of a new token
is then about that of an average one, and hardly any is taken from the others (J. Hewitt,
"Initializing New Word Embeddings for Pretrained Language Models", 2021).
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from jaxllm.hf.base import Row
from jaxllm.hf.view import Index, view
from jaxllm.hf.weights import Stored, rows_of
from jaxllm.nn.param import Nested
from jaxllm.parallel.layouts import weight_items

_ROWS_AT_ONCE = 8192


class Grown:
    """A tensor with further rows along a dimension, each the mean of those it has."""

    def __init__(self, stored: Stored, *, dim: int, size: int):
        """size: of that dimension, with the new rows."""
        self._stored = stored
        self._dim = dim
        self._size = size

    @property
    def shape(self) -> tuple[int, ...]:
        """With the new rows."""
        before, after = self._stored.shape[: self._dim], self._stored.shape[self._dim + 1 :]
        return (*before, self._size, *after)

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as a weight, if it cannot."""
        return self._stored.problem

    def read(self, box: Index) -> np.ndarray:
        """A part of it, in float32."""
        there = self._stored.shape[self._dim]
        rows = range(self._size)[box[self._dim]]
        old = slice(rows.start, max(rows.start, min(rows.stop, there)))
        num_new = len(rows) - (old.stop - old.start)
        parts = []
        if old.stop > old.start:
            parts.append(np.asarray(self._stored.read(self._at(old, box)), np.float32))
        if num_new:
            mean = self._mean[self._at(slice(None), box)].astype(np.float32)
            parts.append(np.repeat(mean, num_new, axis=self._dim))
        return np.concatenate(parts, axis=self._dim)

    def _at(self, rows: slice, box: Index) -> Index:
        return (*box[: self._dim], rows, *box[self._dim + 1 :])

    @cached_property
    def _mean(self) -> np.ndarray:
        """One row, in float64: of whole rows in one order, whatever part of it is asked for."""
        there, whole = self._stored.shape[self._dim], (slice(None),) * len(self._stored.shape)
        total: np.ndarray | float = 0.0
        for first in range(0, there, _ROWS_AT_ONCE):
            box = self._at(slice(first, min(first + _ROWS_AT_ONCE, there)), whole)
            part = np.asarray(self._stored.read(box), np.float64)
            total = total + np.sum(part, axis=self._dim, keepdims=True)
        return np.asarray(total) / there


def with_new_rows(
    entries: Mapping[str, Stored], *, specs: Nested, rows: Sequence[Row]
) -> dict[str, Stored]:
    """The tensors of a folder, those of its vocabulary as long as `specs` want them."""
    table, grown = rows_of(specs, rows), dict(entries)
    for path, spec in weight_items(specs):
        name = table[path].theirs
        if "vocab" not in spec.axes or name not in entries:
            continue
        there, wanted = entries[name].shape, view(table[path].notation).shape(spec.shape)
        more = [dim for dim, size in enumerate(wanted) if there[dim : dim + 1] < (size,)]
        if len(there) == len(wanted) and len(more) == 1:
            grown[name] = Grown(entries[name], dim=more[0], size=wanted[more[0]])
    return grown
