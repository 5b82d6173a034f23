"""Rows of labelled texts: each one text, or a part of it, and its class.

B rows of a read, T = sequence length. The fields of a batch, beside those of `numbered`:

    tokens       int32   (B, T)  the text with its special tokens, filled up
    segment_ids  int32   (B, T)  1 where there is text, 0 where there is filling
    token_types  int32   (B, T)  which text of a pair a token belongs to; of pairs alone
    positions    int32   (B, T)  offset in the row; 0 in filling
    label        int32   (B,)    the class
    loss_mask    float32 (B,)    1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Sequence

import jax
import numpy as np

from jaxllm.data.batch import Batch
from jaxllm.data.corpus import SplitName
from jaxllm.data.example_folder import OpenExamples
from jaxllm.data.example_frame import Frame


def example_shapes(rows: int, length: int, *, has_pairs: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the fields of a batch."""
    names = ("tokens", "segment_ids", "positions", *(("token_types",) if has_pairs else ()))
    whole = {name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in names}
    dtypes = {"label": np.int32, "loss_mask": np.float32, "example_index": np.uint32}
    return whole | {name: jax.ShapeDtypeStruct((rows,), kind) for name, kind in dtypes.items()}


class ExampleRows:
    """See `RowSource`: the rows of one split, in the order of the examples."""

    def __init__(
        self,
        examples: OpenExamples,
        split: SplitName,
        length: int,
        *,
        frame: Frame,
        is_cut: bool,
    ) -> None:
        """is_cut: whether a text longer than a row becomes several; else it is truncated.

        ValueError for rows that are too short for any text.
        """
        self._examples, self._frame, self._length, self._is_cut = examples, frame, length, is_cut
        self._room = length - frame.num_special
        if self._room < examples.num_texts:
            raise ValueError(
                f"data.sequence_length={length} leaves no place for text beside "
                f"{frame.num_special} special tokens; raise it"
            )
        self._numbers = examples.of_split(split)
        spans = examples.spans[self._numbers]
        self._sizes = (spans[..., 1] - spans[..., 0]).sum(axis=1)
        parts = -(-self._sizes // self._room) if is_cut else np.ones_like(self._sizes)
        self._stops = np.cumsum(np.maximum(parts, 1))
        self.num_examples = len(self._numbers)
        self.num_rows = int(self._stops[-1]) if self.num_examples else 0
        around = [[piece.ids.tolist(), piece.types.tolist()] for piece in frame.pieces]
        identity = [examples.card.fingerprint, split, is_cut, around, *frame[1:]]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens, as their rows are too short, and how many tokens."""
        lost = np.maximum(self._sizes - self._room, 0)
        return (0, 0) if self._is_cut else (int((lost > 0).sum()), int(lost.sum()))

    def read(self, rows: Sequence[int]) -> Batch:
        shape = (len(rows), self._length)
        tokens_BT = np.full(shape, self._frame.padding_id, np.int32)
        segments_BT, types_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for place, row in enumerate(rows):
            ids, types = self._row(row)
            tokens_BT[place, : len(ids)] = ids
            types_BT[place, : len(ids)] = types
            segments_BT[place, : len(ids)] = 1
        labels_B = self._examples.labels[self._numbers[self._places(rows)]].astype(np.int32)
        batch = {
            "tokens": tokens_BT,
            "segment_ids": segments_BT,
            "positions": np.arange(self._length, dtype=np.int32) * segments_BT,
            "label": labels_B,
            "loss_mask": np.ones(len(rows), np.float32),
        }
        return {**batch, "token_types": types_BT} if self._examples.num_texts > 1 else batch

    def text_tokens(self, row: int) -> list[np.ndarray]:
        """The tokens of a row that are text: of each text of a pair."""
        place = int(self._places([row])[0])
        texts = [self._examples.tokens[start:stop] for start, stop in self._spans(place)]
        size = int(self._sizes[place])
        if self._is_cut:
            number = row - (int(self._stops[place - 1]) if place else 0)
            parts = int(self._stops[place]) - (row - number)
            # Parts of one length, but for rounding: a last one of three words says little.
            return [texts[0][size * number // parts : size * (number + 1) // parts]]
        if len(texts) == 1:
            return [texts[0][: self._room]]
        first, second = map(len, texts)
        # The longer one is cut first, and then both in turn.
        second = min(second, max(self._room // 2, self._room - first))
        return [texts[0][: self._room - second], texts[1][:second]]

    def label(self, row: int) -> int:
        """The class of a row."""
        return int(self._examples.labels[self._numbers[self._places([row])[0]]])

    def _spans(self, place: int) -> list[list[int]]:
        return self._examples.spans[self._numbers[place]].tolist()

    def _places(self, rows: Sequence[int]) -> np.ndarray:
        """Of each row, which of the split's examples it is of."""
        return np.searchsorted(self._stops, np.asarray(rows, np.int64), side="right")

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of a row without its filling, and which text each belongs to."""
        ids, types = [self._frame.pieces[0].ids], [self._frame.pieces[0].types]
        around = zip(self.text_tokens(row), self._frame.types, self._frame.pieces[1:], strict=True)
        for text, type_, piece in around:
            ids += [text, piece.ids]
            types += [np.full(len(text), type_), piece.types]
        return np.concatenate(ids), np.concatenate(types)
