"""What a training step gets: rows of a token stream with segments, positions and loss mask.

Shapes: B rows of this host, T = sequence length.

    tokens         int32   (B, T)  the inputs
    targets        int32   (B, T)  for each input the token behind it
    segment_ids    int32   (B, T)  which document of the row a token belongs to, from 0
    positions      int32   (B, T)  offset in the document, or in the row for one begun earlier
    loss_mask      float32 (B, T)  1 where the target is scored, 0 where it is filling
    example_index  uint32  (B,)    global row number modulo 2^32, the key of randomness
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

Batch = dict[str, np.ndarray]
Shapes = dict[str, "jax.ShapeDtypeStruct"]
"""Shape and dtype of each field of a batch."""
Arrange = Callable[[Batch], Batch]
"""Makes of rows what an objective reads; a pure function of the batch."""


def unchanged(batch: Batch) -> Batch:
    """The rows as the data has them."""
    return batch


def batch_shapes(rows: int, length: int) -> Shapes:
    """Shapes and dtypes of the fields of a batch, which follow from its size alone."""
    dtypes = {
        **dict.fromkeys(("tokens", "targets", "segment_ids", "positions"), np.int32),
        "loss_mask": np.float32,
    }
    fields = {name: field_shape((rows, length), dtype) for name, dtype in dtypes.items()}
    return {**fields, "example_index": field_shape((rows,), np.uint32)}


def field_shape(shape: tuple[int, ...], dtype: Any) -> "jax.ShapeDtypeStruct":
    """The shape and dtype of one field."""
    import jax  # workers that only prepare data may do without

    return jax.ShapeDtypeStruct(shape, dtype)


def make_rows(
    rows_BS: np.ndarray, *, delimiter_id: int, scored_B: np.ndarray | None = None
) -> Batch:
    """The fields of rows of S = T + 1 ids, all but their numbers.

    `scored_B` is the number of targets that are scored in each row; by default all are.
    """
    tokens_BT = np.ascontiguousarray(rows_BS[:, :-1])
    segments_BT, positions_BT = segments_and_positions(tokens_BT, delimiter_id)
    if scored_B is None:
        mask_BT = np.ones(tokens_BT.shape, np.float32)
    else:
        mask_BT = (np.arange(tokens_BT.shape[1]) < scored_B[:, None]).astype(np.float32)
    return {
        "tokens": tokens_BT,
        "targets": np.ascontiguousarray(rows_BS[:, 1:]),
        "segment_ids": segments_BT,
        "positions": positions_BT,
        "loss_mask": mask_BT,
    }


def numbered(rows: Batch, numbers: Sequence[int] | np.ndarray) -> Batch:
    """The rows with their global numbers, as example_index."""
    return {**rows, "example_index": (np.asarray(numbers, np.int64) & 0xFFFFFFFF).astype(np.uint32)}


def make_batch(
    rows_BS: np.ndarray,
    *,
    delimiter_id: int,
    example_index: Sequence[int] | np.ndarray,
    scored_B: np.ndarray | None = None,
) -> Batch:
    """The whole batch of rows of S = T + 1 ids; see `make_rows`."""
    rows = make_rows(rows_BS, delimiter_id=delimiter_id, scored_B=scored_B)
    return numbered(rows, example_index)


def segments_and_positions(
    tokens_BT: np.ndarray, delimiter_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """The running count of delimiters in each row, and the distance to the last one.

    Delimiters are rare, so whole runs between them are written at once.
    """
    rows, length = tokens_BT.shape
    delimiters = np.flatnonzero(tokens_BT == delimiter_id)
    # A run starts at each row and at each delimiter; a delimiter that opens a row starts one.
    starts = np.union1d(np.arange(rows) * length, delimiters)
    run_lengths = np.diff(starts, append=rows * length)
    opened = np.searchsorted(delimiters, starts, side="right")
    before_row = np.searchsorted(delimiters, starts // length * length, side="left")
    segments = np.repeat((opened - before_row).astype(np.int32), run_lengths)
    positions = np.arange(rows * length, dtype=np.int32)
    positions -= np.repeat(starts.astype(np.int32), run_lengths)
    return segments.reshape(rows, length), positions.reshape(rows, length)
