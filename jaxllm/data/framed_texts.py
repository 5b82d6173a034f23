"""Texts of rows, one a row, with their special tokens and filling.

B rows, T = sequence length.
"""

from collections.abc import Sequence

import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.example_frame import Frame


def framed_texts(frame: Frame, texts: Sequence[np.ndarray], length: int) -> Batch:
    """tokens, positions and segment_ids, int32 (B, T); what is too long is cut off at its end.

    segment_ids are 1 where there is text and its special tokens, 0 in filling.
    """
    shape = (len(texts), length)
    tokens_BT = np.full(shape, frame.padding_id, np.int32)
    segments_BT = np.zeros(shape, np.int32)
    for row, text in enumerate(texts):
        ids, _ = frame.around([text[: length - frame.num_special]])
        tokens_BT[row, : len(ids)] = ids
        segments_BT[row, : len(ids)] = 1
    positions_BT = np.arange(length, dtype=np.int32) * segments_BT
    return {"tokens": tokens_BT, "segment_ids": segments_BT, "positions": positions_BT}


def framed_sizes(frame: Frame, sizes: np.ndarray, length: int) -> np.ndarray:
    """How many positions of their rows texts of so many tokens take."""
    return np.minimum(sizes + frame.num_special, length)


def lost_tokens(frame: Frame, sizes: np.ndarray, length: int) -> np.ndarray:
    """How many tokens texts of so many lose in their rows."""
    return np.maximum(sizes + frame.num_special - length, 0)


def check_room(frame: Frame, length: int) -> None:
    """ValueError for rows that are too short for any text."""
    if length <= frame.num_special:
        raise ValueError(
            f"data.sequence_length={length} leaves no place for text beside "
            f"{frame.num_special} special tokens; raise it"
        )
