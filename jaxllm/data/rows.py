"""Rows by number: what a loader shuffles, mixes, and deals out to hosts.

B rows of a read, T = sequence length.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from jaxllm.data.batch import Batch, make_rows
from jaxllm.data.streams import TokenStream


class RowSource(Protocol):
    """Rows of one split of a dataset, all of the same fields, by random access."""

    num_rows: int
    """How many there are; what is left over of a text is not among them."""
    fingerprint: str
    """Changes when the rows do."""

    def read(self, rows: Sequence[int]) -> Batch:
        """The fields of these rows, each of shape (B, ...)."""


class TokenRows:
    """See `RowSource`: row i is the tokens [i*T, i*T + T + 1) of a stream.

    Rows overlap by one token, so that each token is the target of exactly one row.
    """

    def __init__(self, stream: TokenStream, length: int, *, name: str) -> None:
        """name: of the dataset. ValueError for a stream that has no row, or too many."""
        self._stream, self._length = stream, length
        self.num_rows = (stream.num_tokens - 1) // length
        self.fingerprint = stream.fingerprint
        if not 0 < self.num_rows < 1 << 32:
            raise ValueError(
                f"dataset {name!r} has {stream.num_tokens} tokens, which make "
                f"{max(self.num_rows, 0)} rows of {length}; between 1 and 2^32 - 1 are possible: "
                "change `data.sequence_length`, or the dataset"
            )

    def read(self, rows: Sequence[int]) -> Batch:
        starts = [row * self._length for row in rows]
        rows_BS = self._stream.read_rows(starts, self._length + 1)
        return make_rows(rows_BS, delimiter_id=self._stream.delimiter_id)


def joined(parts: Sequence[tuple[np.ndarray, Batch]], size: int) -> Batch:
    """Batches of some rows each, (their places, their fields), as one of `size` rows."""
    if len(parts) == 1:
        return parts[0][1]
    fields = parts[0][1]
    whole = {
        name: np.empty((size, *field.shape[1:]), field.dtype) for name, field in fields.items()
    }
    for places, part in parts:
        for name, field in part.items():
            whole[name][places] = field
    return whole
