"""Rows of conversations: as many in each as fit, none of which sees another.

B rows of a read, T = sequence length. The fields of a batch are those of `jaxllm.data.batch`:

    tokens       int32   (B, T)  conversation behind conversation, then filling
    targets      int32   (B, T)  for each input the token behind it, in its conversation
    segment_ids  int32   (B, T)  which conversation of the row a token is of, from 1; 0 in filling
    positions    int32   (B, T)  offset in the conversation; 0 in filling
    loss_mask    float32 (B, T)  1 where the target is the assistant's
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.example_table import Table
from jaxllm.data.packing import ALGORITHM, Packing, pack


class ChatRows:
    """See `ExampleRows`: the conversations of a table, packed once for all epochs and hosts.

    A conversation that is longer than a row ends at the last answer that fits; one whose first
    answer does not fit is left out.
    """

    def __init__(self, table: Table, length: int, *, padding_id: int) -> None:
        """padding_id: what fills rows up. ValueError where no conversation fits into a row."""
        self._table, self._length, self._padding_id = table, length, padding_id
        self._tokens, self._is_scored = table["tokens"], table["is_scored"]
        self.num_examples = table.num_examples
        whole = self._tokens.sizes
        # The last token is a target alone, so that a row of T has room for T + 1.
        self._sizes = whole - 1
        for number in np.flatnonzero(self._sizes > length).tolist():
            self._sizes[number] = self._fitting_size(number, table["stops"][number])
        kept = np.flatnonzero(self._sizes)
        if not len(kept):
            raise ValueError(
                f"data.sequence_length={length} is too short for the first answer of every "
                f"conversation; raise it (the longest has {int(whole.max())} tokens)"
            )
        self.num_dropped = self.num_examples - len(kept)
        self.truncated = (
            int((self._sizes < whole - 1).sum()),
            int((whole - 1 - self._sizes).sum()) + self.num_dropped,
        )
        packing = pack(self._sizes[kept], length)
        self._packing = Packing(kept[packing.order_N], packing.stops_R)
        self.num_rows = packing.num_rows
        identity = [table.fingerprint, ALGORITHM, padding_id]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _fitting_size(self, number: int, stops: np.ndarray) -> int:
        """How many inputs of a conversation fit into a row, with the end of an answer; 0 if none.

        stops: where its answers end.
        """
        fitting = stops[stops <= self._length + 1]
        kept = int(fitting[-1]) if len(fitting) else 0
        # An answer that is no more than the first token of all is no target.
        has_target = bool(self._is_scored[number][1:kept].any())
        return kept - 1 if has_target else 0

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row are no filling, (num_rows,)."""
        through = np.cumsum(self._sizes[self._packing.order_N])[self._packing.stops_R - 1]
        return np.diff(through, prepend=0)

    def example_of(self, row: int) -> int:
        """The number of the conversation that a row begins with."""
        return int(self.examples_of(row)[0])

    def examples_of(self, row: int) -> np.ndarray:
        """The numbers of the conversations of a row, in the order in which they stand there."""
        return self._packing.examples(row)

    def read(self, rows: Sequence[int]) -> Batch:
        shape = (len(rows), self._length)
        tokens_BT = np.full(shape, self._padding_id, np.int32)
        targets_BT = np.full(shape, self._padding_id, np.int32)
        segments_BT, positions_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        mask_BT = np.zeros(shape, np.float32)
        for place, row in enumerate(rows):
            start = 0
            for segment, number in enumerate(self.examples_of(row).tolist(), start=1):
                size = int(self._sizes[number])
                here = (place, slice(start, start + size))
                ids = self._tokens[number]
                tokens_BT[here] = ids[:size]
                targets_BT[here] = ids[1 : size + 1]
                mask_BT[here] = self._is_scored[number][1 : size + 1]
                segments_BT[here] = segment
                positions_BT[here] = np.arange(size)
                start += size
        return {
            "tokens": tokens_BT,
            "targets": targets_BT,
            "segment_ids": segments_BT,
            "positions": positions_BT,
            "loss_mask": mask_BT,
        }
