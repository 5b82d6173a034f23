"""Rows of tagged words: each a text, or as many of its words as a row holds.

N texts. B rows of a read, T = sequence length, W words. The fields of a batch, beside those of
`numbered`:

    tokens       int32   (B, T)  the text with its special tokens, filled up
    segment_ids  int32   (B, T)  1 where there is text, 0 where there is filling
    positions    int32   (B, T)  offset in the row; 0 in filling
    label        int32   (B, T)  the tag of the word that begins there, where tags are known; else 0
    loss_mask    float32 (B, T)  1 where a word begins, 0 elsewhere
"""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_frame import Frame
from jaxllm.data.example_table import Column, Table
from jaxllm.data.framed_texts import check_room, framed_texts


def tagged_shapes(rows: int, length: int) -> Shapes:
    """Shapes and dtypes of the fields of a batch."""
    ints = ("tokens", "segment_ids", "positions", "label")
    dtypes = {**dict.fromkeys(ints, np.int32), "loss_mask": np.float32}
    whole = {name: field_shape((rows, length), dtype) for name, dtype in dtypes.items()}
    return whole | {"example_index": field_shape((rows,), np.uint32)}


class Part(NamedTuple):
    """The words of a row, from one up to before another, and the tokens likewise."""

    first_word: int
    stop_word: int
    first_token: int
    stop_token: int


class TaggedRows:
    """See `ExampleRows`: the rows of a table, in the order of its examples.

    Its columns: `tokens` of a text; `starts`, the first token of each word, see `first_tokens`;
    `label`, the tag of each word. Where there is no label, also `text` in UTF-8, and `places`, four
    numbers of each word: from which character of it to which it goes, and what answers tell.
    """

    def __init__(self, table: Table, length: int, *, frame: Frame) -> None:
        """ValueError for rows that are too short for any text."""
        check_room(frame, length)
        self._table, self._frame, self._length = table, frame, length
        self._room = length - frame.num_special
        self.num_examples = table.num_examples
        self._parts = cut(table["starts"], table["tokens"].sizes, self._room)
        self.num_rows = len(self._parts)
        lost = np.maximum(self._parts[:, 4] - self._parts[:, 3] - self._room, 0)
        self.truncated = len(np.unique(self._parts[lost > 0, 0])), int(lost.sum())
        around = [[piece.ids.tolist(), piece.types.tolist()] for piece in frame.pieces]
        identity = [table.fingerprint, around, *frame[1:]]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row are no filling, (num_rows,)."""
        tokens = self._parts[:, 4] - self._parts[:, 3]
        return np.minimum(tokens, self._room) + self._frame.num_special

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return int(self._parts[row, 0])

    def part(self, row: int) -> Part:
        """What a row has of its example."""
        return Part(*self._parts[row, 1:].tolist())

    def places(self, row: int) -> np.ndarray:
        """At which position of a row each of its words begins; -1 for one without a token."""
        part = self.part(row)
        starts = self._table["starts"][self.example_of(row)]
        starts = np.append(starts, part.stop_token)[part.first_word : part.stop_word + 1]
        places = len(self._frame.pieces[0].ids) + starts[:-1] - part.first_token
        return np.where(np.diff(starts) > 0, places, -1)

    def read(self, rows: Sequence[int]) -> Batch:
        parts = [self.part(row) for row in rows]
        texts = [
            self._table["tokens"][self.example_of(row)][part.first_token : part.stop_token]
            for row, part in zip(rows, parts, strict=True)
        ]
        mask_BT = np.zeros((len(rows), self._length), np.float32)
        label_BT = np.zeros((len(rows), self._length), np.int32)
        for place, (row, part) in enumerate(zip(rows, parts, strict=True)):
            places = self.places(row)
            is_there = places >= 0
            mask_BT[place, places[is_there]] = 1
            if self.has_labels:
                labels = self.labels(self.example_of(row))[part.first_word : part.stop_word]
                label_BT[place, places[is_there]] = labels[is_there]
        batch = {**framed_texts(self._frame, texts, self._length), "loss_mask": mask_BT}
        return {**batch, "label": label_BT} if self.has_labels else batch

    @property
    def has_labels(self) -> bool:
        """Whether the tags are known."""
        return "label" in self._table

    def labels(self, number: int) -> np.ndarray:
        """The tags of an example's words, which must be known, (W,)."""
        return self._table["label"][number]

    def words(self, number: int) -> tuple[str, np.ndarray]:
        """The text of an example without labels, and the four numbers of each word, (W, 4)."""
        text = self._table["text"][number].tobytes().decode("utf-8")
        return text, self._table["places"][number].reshape(-1, 4)


def cut(starts: Column, num_tokens: np.ndarray, room: int) -> np.ndarray:
    """Texts as parts of whole words, each of as many as `room` tokens hold, and at least one.

    starts: the first token of each word of N texts, each of which has a word; num_tokens: how many
    tokens each has, (N,). A word may have more tokens than there is room.
    Returns the number of the text and then the fields of `Part`, of all parts in order, (parts, 5).
    """
    texts_N = np.arange(len(num_tokens))
    firsts_N = np.zeros_like(texts_N)
    found = []
    while len(texts_N):  # one part of each text that is not at its end
        words_N = starts.sizes[texts_N]
        begins_N = _bounds(starts, num_tokens, texts_N, firsts_N)
        # The last word that begins where there is room for all of those before it.
        stops_N = _last_within(starts, num_tokens, texts_N, begins_N + room)
        # A word alone, behind those that have no token.
        alone_N = _last_within(starts, num_tokens, texts_N, begins_N) + 1
        stops_N = np.maximum(stops_N, np.minimum(alone_N, words_N))
        ends_N = _bounds(starts, num_tokens, texts_N, stops_N)
        found.append(np.stack([texts_N, firsts_N, stops_N, begins_N, ends_N], axis=-1))
        goes_on_N = stops_N < words_N
        texts_N, firsts_N = texts_N[goes_on_N], stops_N[goes_on_N]
    parts = np.concatenate(found)
    return parts[np.argsort(parts[:, 0], kind="stable")]


def _bounds(
    starts: Column, num_tokens: np.ndarray, texts_N: np.ndarray, words_N: np.ndarray
) -> np.ndarray:
    """With which token a word of each text begins, and behind the last word the text ends, (N,)."""
    last_N = starts.sizes[texts_N] - 1
    begins_N = starts.values_at(texts_N, np.minimum(words_N, last_N)).astype(np.int64)
    return np.where(words_N > last_N, num_tokens[texts_N], begins_N)


def _last_within(
    starts: Column, num_tokens: np.ndarray, texts_N: np.ndarray, limits_N: np.ndarray
) -> np.ndarray:
    """The last word of each text whose bound is not above a limit, by bisection, (N,)."""
    low_N, high_N = np.zeros_like(texts_N), starts.sizes[texts_N]
    while (low_N < high_N).any():
        middle_N = (low_N + high_N + 1) // 2
        is_within_N = _bounds(starts, num_tokens, texts_N, middle_N) <= limits_N
        low_N = np.where(is_within_N, middle_N, low_N)
        high_N = np.where(is_within_N, high_N, middle_N - 1)
    return low_N
