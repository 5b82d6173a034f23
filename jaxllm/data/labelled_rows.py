"""Rows of labelled texts: each one text, or a part of it, and its class, classes or number.

B rows of a read, T = sequence length, C classes. The fields of a batch, beside those of `numbered`:

    tokens       int32   (B, T)  the text with its special tokens, filled up
    segment_ids  int32   (B, T)  1 where there is text, 0 where there is filling
    token_types  int32   (B, T)  which text of a pair a token belongs to; of pairs alone
    positions    int32   (B, T)  offset in the row; 0 in filling
    label        int32   (B,)    the class, where it is known; of texts with any number of classes
                 float32 (B, C)  1 for those it has; of texts with a number
                 float32 (B,)    that number
    loss_mask    float32 (B,)    1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_frame import Frame
from jaxllm.data.example_table import Table

LabelKind = Literal["class", "classes", "number"]
COLUMNS: dict[LabelKind, str] = {
    "class": "label",
    "classes": "label_flags",
    "number": "label_number",
}
"""Under which name what texts are labelled with is kept."""
_TEXTS = ("text", "text_pair")


def labelled_shapes(
    rows: int, length: int, *, has_pairs: bool, kind: LabelKind, num_classes: int
) -> Shapes:
    """Shapes and dtypes of the fields of a batch."""
    names = ("tokens", "segment_ids", "positions", *(("token_types",) if has_pairs else ()))
    whole = {name: field_shape((rows, length), np.int32) for name in names}
    dtypes = {"loss_mask": np.float32, "example_index": np.uint32}
    label = field_shape(
        (rows, num_classes) if kind == "classes" else (rows,),
        np.int32 if kind == "class" else np.float32,
    )
    singles = {name: field_shape((rows,), dtype) for name, dtype in dtypes.items()}
    return whole | {"label": label} | singles


class LabelledRows:
    """See `ExampleRows`: the rows of a table, in the order of its examples."""

    def __init__(self, table: Table, length: int, *, frame: Frame, is_cut: bool) -> None:
        """is_cut: whether a text longer than a row becomes several; else it is truncated.

        ValueError for rows that are too short for any text.
        """
        self._table, self._frame, self._length, self._is_cut = table, frame, length, is_cut
        self._texts = [table[name] for name in _TEXTS if name in table]
        self._room = length - frame.num_special
        if self._room < len(self._texts):
            raise ValueError(
                f"data.sequence_length={length} leaves no place for text beside "
                f"{frame.num_special} special tokens; raise it"
            )
        self._sizes = np.sum([column.sizes for column in self._texts], axis=0)
        parts = -(-self._sizes // self._room) if is_cut else np.ones_like(self._sizes)
        self._parts = np.maximum(parts, 1)
        self._stops = np.cumsum(self._parts)
        self.num_examples = table.num_examples
        self.num_rows = int(self._stops[-1])
        around = [[piece.ids.tolist(), piece.types.tolist()] for piece in frame.pieces]
        identity = [table.fingerprint, is_cut, around, *frame[1:]]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row are no filling, (num_rows,)."""
        sizes, parts = (np.repeat(of, self._parts) for of in (self._sizes, self._parts))
        part = np.arange(self.num_rows) - np.repeat(self._stops - self._parts, self._parts)
        here = sizes * (part + 1) // parts - sizes * part // parts
        return np.minimum(here, self._room) + self._frame.num_special

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens, as their rows are too short, and how many tokens."""
        lost = np.maximum(self._sizes - self._room, 0)
        return (0, 0) if self._is_cut else (int((lost > 0).sum()), int(lost.sum()))

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return int(np.searchsorted(self._stops, row, side="right"))

    def read(self, rows: Sequence[int]) -> Batch:
        shape = (len(rows), self._length)
        tokens_BT = np.full(shape, self._frame.padding_id, np.int32)
        segments_BT, types_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for place, row in enumerate(rows):
            ids, types = self._frame.around(self.text_tokens(row))
            tokens_BT[place, : len(ids)] = ids
            types_BT[place, : len(ids)] = types
            segments_BT[place, : len(ids)] = 1
        batch = {
            "tokens": tokens_BT,
            "segment_ids": segments_BT,
            "positions": np.arange(self._length, dtype=np.int32) * segments_BT,
            "loss_mask": np.ones(len(rows), np.float32),
        }
        if self.has_labels:
            batch["label"] = self.labels(rows)
        return {**batch, "token_types": types_BT} if len(self._texts) > 1 else batch

    def text_tokens(self, row: int) -> list[np.ndarray]:
        """The tokens of a row that are text: of each text of a pair."""
        number = self.example_of(row)
        texts = [column[number] for column in self._texts]
        if self._is_cut:
            size, parts = int(self._sizes[number]), int(self._parts[number])
            part = row - (int(self._stops[number]) - parts)
            # Parts of one length, but for rounding: a last one of three words says little.
            return [texts[0][size * part // parts : size * (part + 1) // parts]]
        return fitted(texts, self._room)

    @property
    def has_labels(self) -> bool:
        """Whether it is known what the texts are labelled with."""
        return any(name in self._table for name in COLUMNS.values())

    def labels(self, rows: Sequence[int]) -> np.ndarray:
        """What rows are labelled with, as the field `label` has it; which must be known."""
        numbers = [self.example_of(row) for row in rows]
        name = next(name for name in COLUMNS.values() if name in self._table)
        column = self._table[name]
        if name == COLUMNS["classes"]:
            return np.stack([column[number] for number in numbers]).astype(np.float32)
        dtype = np.int32 if name == COLUMNS["class"] else np.float32
        return column.scalars(numbers).astype(dtype)


def fitted(texts: Sequence[np.ndarray], room: int) -> list[np.ndarray]:
    """One text or a pair, truncated to `room` tokens together: the longer one first."""
    if len(texts) == 1:
        return [texts[0][:room]]
    first, second = map(len, texts)
    second = min(second, max(room // 2, room - first))
    return [texts[0][: room - second], texts[1][:second]]
