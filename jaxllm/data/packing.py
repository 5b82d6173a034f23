"""Examples of different lengths packed into rows of one length: best-fit decreasing.

The longest example is placed first, and each goes to the row with the least room that still holds
it. Such rows need at most 11/9 of the fewest that would do, and one more (Johnson, Near-optimal bin
packing algorithms, 1973); with many short examples they are all but full. N examples, R rows.
"""

from typing import NamedTuple

import numpy as np

ALGORITHM = "best-fit decreasing, 1"
"""Names which examples come to lie in which row; another algorithm has another name."""


class Packing(NamedTuple):
    """Which examples lie in which row.

    order_N: numbers of examples, row behind row, in each the longest first. stops_R: where each row
    ends in it.
    """

    order_N: np.ndarray
    stops_R: np.ndarray

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.stops_R)

    def examples(self, row: int) -> np.ndarray:
        """The numbers of the examples of a row."""
        start = self.stops_R[row - 1] if row else 0
        return self.order_N[start : self.stops_R[row]]


def pack(sizes_N: np.ndarray, length: int) -> Packing:
    """Packs examples of these sizes into rows of `length`; each must fit into a row by itself.

    The same sizes give the same rows; among equal sizes the first example is placed first. Takes
    O(N log N) for the sorting, and for each example a look at `length` bits.
    """
    sizes_N = np.asarray(sizes_N, np.int64)
    assert not len(sizes_N) or (sizes_N.min() > 0 and sizes_N.max() <= length)
    longest_first_N = np.argsort(-sizes_N, kind="stable")
    row_N = np.empty(len(sizes_N), np.int64)
    with_room: list[list[int]] = [[] for _ in range(length + 1)]
    found = 0  # bit r is set where a row has room for r more
    num_rows = 0
    for place, size in enumerate(sizes_N[longest_first_N].tolist()):
        fitting = found >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                found ^= 1 << room
        else:
            room, row = length, num_rows
            num_rows += 1
        row_N[place] = row
        left = room - size
        if left:
            if not with_room[left]:
                found |= 1 << left
            with_room[left].append(row)
    by_row_N = np.argsort(row_N, kind="stable")
    stops_R = np.cumsum(np.bincount(row_N, minlength=num_rows))
    return Packing(longest_first_N[by_row_N], stops_R)
