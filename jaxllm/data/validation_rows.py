"""Validation by rows that stand for themselves: each of them once, in order."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxllm.data.batch import Arrange, Batch, numbered, unchanged
from jaxllm.data.rows import RowSource


class ValidationRows:
    """Batches of all rows of a source; the last one is filled up with rows that are not scored.

    Every host has the same number of batches.
    """

    raw_bytes: int | None = None
    """Of what is told of a text nothing says how many bits its bytes need."""

    def __init__(
        self,
        source: RowSource,
        *,
        name: str,
        global_batch_size: int,
        rows: Sequence[int] | None = None,
        arrange: Arrange | None = None,
    ) -> None:
        """`rows` are this host's of the global batch, ascending; all of them by default."""
        self.name = name
        self.source = source
        self._arrange = arrange or unchanged
        self._batch_size = global_batch_size
        self._rows = np.asarray(range(global_batch_size) if rows is None else rows, np.int64)

    def __len__(self) -> int:
        return -(-self.source.num_rows // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, range(len(self)))

    def batch(self, index: int) -> Batch:
        """This host's rows of global batch `index`."""
        numbers = index * self._batch_size + self._rows
        last = self.source.num_rows - 1
        batch = self.source.read(np.minimum(numbers, last).tolist())
        is_there_B = (numbers <= last).astype(np.float32)
        mask = batch["loss_mask"]
        batch["loss_mask"] = mask * is_there_B.reshape(-1, *[1] * (mask.ndim - 1))
        return self._arrange(numbered(batch, numbers))
