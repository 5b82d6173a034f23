"""Datasets of pictures with what is written of them.

B rows of a read, T = sequence length, H = W = size, C channels of a pixel. The fields of a batch,
beside those of `numbered`:

    tokens       int32   (B, T)        the text with its special tokens, filled up; an end closes it
    segment_ids  int32   (B, T)        1 where there is text, 0 where there is filling
    pixels       uint8   (B, H, W, C)  the picture
    loss_mask    float32 (B,)          1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_frame import Frame, Piece, frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.framed_texts import check_room, framed_sizes, framed_texts, lost_tokens
from jaxllm.data.picture import Fit, NumChannels, picture_of
from jaxllm.data.tokenizer import Tokenizer


class CaptionsConfig(ExamplesConfig):
    """Pictures with texts; decoded and brought to one size when prepared."""

    type: Literal["captions"] = "captions"
    """Kind of dataset: pictures with texts."""
    image: str = "image"
    """Field of the picture: the bytes of its file, or its pixels."""
    text: str = "text"
    """Field of the text."""
    size: PositiveInt
    """Height and width that every picture is brought to, in pixels."""
    num_channels: NumChannels = 3
    """Numbers of a pixel: 3 in colour, 1 for shades of grey."""
    fit: Fit = "crop"
    """How a picture that is no square becomes one: what is too long is cut off on both sides
    (crop), or it is squeezed (squeeze)."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {"text": "tokens", "pixels": "uint8"}

    def texts(self, record: ExampleRecord) -> list[str]:
        return [record.text(self.text, key="text")]

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        pixels_HWC = picture_of(
            record,
            self.image,
            key="image",
            size=self.size,
            num_channels=self.num_channels,
            fit=self.fit,
        )
        fields = {"pixels": pixels_HWC.reshape(-1)}
        if is_labelled:  # of a picture alone its vector is asked for
            fields["text"] = tokenizer.encode(record.text(self.text, key="text"))
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> "CaptionRows":
        shape = (self.size, self.size, self.num_channels)
        return CaptionRows(table, length, frame=closed_frame(tokenizer), shape=shape)

    def shapes(self, rows: int, length: int) -> Shapes:
        text = field_shape((rows, length), np.int32)
        shape = (rows, self.size, self.size, self.num_channels)
        return {
            "tokens": text,
            "segment_ids": text,
            "pixels": field_shape(shape, np.uint8),
            "loss_mask": field_shape((rows,), np.float32),
            "example_index": field_shape((rows,), np.uint32),
        }


def closed_frame(tokenizer: Tokenizer) -> Frame:
    """The frame of a text whose last token stands for all of it.

    As the tokenizer has it; one that puts nothing behind a text closes each with the delimiter.
    """
    frame = frame_of(tokenizer, num_texts=1)
    if len(frame.pieces[-1].ids):
        return frame
    nothing, zero = np.zeros(0, np.int64), np.zeros(1, np.int64)
    pieces = (Piece(nothing, nothing), Piece(zero + tokenizer.delimiter_id, zero))
    return frame._replace(pieces=pieces)


class CaptionRows:
    """See `ExampleRows`: each row is a picture with its text, or a picture to be embedded."""

    def __init__(
        self, table: Table, length: int, *, frame: Frame, shape: tuple[int, int, int]
    ) -> None:
        """shape: of a picture, (H, W, C). ValueError for rows that are too short for any text."""
        check_room(frame, length)
        self._table, self._length, self._frame, self._shape = table, length, frame, shape
        self.num_examples = self.num_rows = table.num_examples
        around = [piece.ids.tolist() for piece in frame.pieces]
        identity = [table.fingerprint, around, frame.padding_id, *shape]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row the text takes, all where there is none, (num_rows,)."""
        if "text" not in self._table:
            return np.full(self.num_rows, self._length)
        return framed_sizes(self._frame, self._table["text"].sizes, self._length)

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens, as their rows are too short, and how many tokens."""
        if "text" not in self._table:
            return 0, 0
        lost = lost_tokens(self._frame, self._table["text"].sizes, self._length)
        return int((lost > 0).sum()), int(lost.sum())

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return row

    def read(self, rows: Sequence[int]) -> Batch:
        pixels_BN = np.stack([self._table["pixels"][row] for row in rows])
        batch = {
            "pixels": pixels_BN.reshape(-1, *self._shape),
            "loss_mask": np.ones(len(rows), np.float32),
        }
        if "text" in self._table:
            texts = [self._table["text"][row] for row in rows]
            fields = framed_texts(self._frame, texts, self._length)
            batch |= {name: fields[name] for name in ("tokens", "segment_ids")}
        return batch
