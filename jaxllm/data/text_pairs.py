"""Datasets of texts in pairs that belong together.

B rows of a read, T = sequence length. The fields of a batch, beside those of `numbered`:

    tokens       int32   (B, T)  the first text with its special tokens, filled up
    segment_ids  int32   (B, T)  1 where there is text, 0 where there is filling
    positions    int32   (B, T)  offset in the row; 0 in filling
    other_...    int32   (B, T)  the same three of the second text, where it is known
    loss_mask    float32 (B,)    1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import PositiveInt, model_validator

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_frame import Frame, frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.framed_texts import check_room, framed_sizes, framed_texts, lost_tokens
from jaxllm.data.tokenizer import Tokenizer

_TEXTS = {"text": "", "text_pair": "other_"}
"""The columns of texts, and what the fields of each begin with."""


class TextPairsConfig(ExamplesConfig):
    """Pairs of texts that belong together: a question and its answer, or two neighbours."""

    type: Literal["text_pairs"] = "text_pairs"
    """Kind of dataset: texts in pairs."""
    text: str = "text"
    """Field of the first text."""
    text_pair: str | None = "text_pair"
    """Field of the second text; null makes pairs of each text's own neighbouring passages."""
    passage_tokens: PositiveInt | None = None
    """Length of such a passage at least, in tokens, of texts that are long enough."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {"text": "tokens", "text_pair": "tokens"}

    @model_validator(mode="after")
    def _passages_are_of_one_text(self) -> Self:
        if (self.text_pair is None) != (self.passage_tokens is not None):
            raise ValueError(
                "give text_pair, the field of the second text, or passage_tokens with "
                "text_pair=null, for neighbouring passages of one"
            )
        return self

    def texts(self, record: ExampleRecord) -> list[str]:
        found = [record.text(self.text, key="text")]
        if self.text_pair is not None:
            found.append(record.text(self.text_pair, key="text_pair"))
        return found

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        tokens = tokenizer.encode(record.text(self.text, key="text"))
        if not is_labelled:
            return [{"text": tokens}]
        if self.text_pair is not None:
            other = tokenizer.encode(record.text(self.text_pair, key="text_pair"))
            return [{"text": tokens, "text_pair": other}]
        passages = self._passages(tokens, record)
        pairs = zip(passages[::2], passages[1::2], strict=True)
        return [{"text": first, "text_pair": second} for first, second in pairs]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> "PairRows":
        return PairRows(table, length, frame=frame_of(tokenizer, num_texts=1))

    def shapes(self, rows: int, length: int) -> Shapes:
        text = field_shape((rows, length), np.int32)
        names = ("tokens", "segment_ids", "positions")
        return {
            **{prefix + name: text for prefix in _TEXTS.values() for name in names},
            "loss_mask": field_shape((rows,), np.float32),
            "example_index": field_shape((rows,), np.uint32),
        }

    def _passages(self, tokens: np.ndarray, record: ExampleRecord) -> list[np.ndarray]:
        """An even number of parts of a text, all of one length but for rounding."""
        assert self.passage_tokens is not None
        size = len(tokens)
        if size < 2:
            raise DatasetError(
                "text",
                f"{record.where}: {self.text!r} is of a single token, which makes no two passages; "
                "leave the record out of the data",
            )
        count = max(2, size // self.passage_tokens // 2 * 2)
        stops = [size * part // count for part in range(count + 1)]
        return [tokens[stops[part] : stops[part + 1]] for part in range(count)]


class PairRows:
    """See `ExampleRows`: each row is a pair, or a single text to be embedded."""

    def __init__(self, table: Table, length: int, *, frame: Frame) -> None:
        """ValueError for rows that are too short for any text."""
        check_room(frame, length)
        self._table, self._length, self._frame = table, length, frame
        self._texts = {name: prefix for name, prefix in _TEXTS.items() if name in table}
        self.num_examples = self.num_rows = table.num_examples
        around = [piece.ids.tolist() for piece in frame.pieces]
        identity = [table.fingerprint, around, frame.padding_id]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row the longer text takes, (num_rows,)."""
        longest = np.max([self._table[name].sizes for name in self._texts], axis=0)
        return framed_sizes(self._frame, longest, self._length)

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens, as their rows are too short, and how many tokens."""
        lost = np.sum(
            [
                lost_tokens(self._frame, self._table[name].sizes, self._length)
                for name in self._texts
            ],
            axis=0,
        )
        return int((lost > 0).sum()), int(lost.sum())

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return row

    def read(self, rows: Sequence[int]) -> Batch:
        batch: Batch = {"loss_mask": np.ones(len(rows), np.float32)}
        for name, prefix in self._texts.items():
            texts = [self._table[name][row] for row in rows]
            fields = framed_texts(self._frame, texts, self._length)
            batch |= {prefix + field: values for field, values in fields.items()}
        return batch
