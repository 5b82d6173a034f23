"""Datasets of pictures, of which each has a class.

B rows of a read, H = W = size, C channels of a pixel. The fields of a batch, beside those of
`numbered`:

    pixels     uint8   (B, H, W, C)  the picture
    label      int32   (B,)          the class, where it is known
    loss_mask  float32 (B,)          1 where the row is scored, 0 where it fills up a batch
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt, field_validator

from jaxllm.data.batch import Batch, Shapes, field_shape
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.picture import Fit, NumChannels, picture_of
from jaxllm.data.tokenizer import Tokenizer


class PicturesConfig(ExamplesConfig):
    """Pictures, of which each has a class; decoded and brought to one size when prepared."""

    type: Literal["pictures"] = "pictures"
    """Kind of dataset: pictures with classes."""
    image: str = "file"
    """Field of the picture: the bytes of its file, or its pixels."""
    label: str = "folder"
    """Field of the class."""
    labels: tuple[str, ...] = Field(min_length=2)
    """Names of the classes, in order, as they stand in the label's field."""
    size: PositiveInt
    """Height and width that every picture is brought to, in pixels."""
    num_channels: NumChannels = 3
    """Numbers of a pixel: 3 in colour, 1 for shades of grey."""
    fit: Fit = "crop"
    """How a picture that is no square becomes one: what is too long is cut off on both sides
    (crop), or it is squeezed (squeeze)."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {"pixels": "uint8", "label": "int32"}
    has_text: ClassVar[bool] = False

    @field_validator("labels")
    @classmethod
    def _named_once(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) < len(labels):
            raise ValueError("a name is given twice")
        return labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.labels

    def texts(self, record: ExampleRecord) -> list[str]:
        return []

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
        if is_labelled:
            names = {name: number for number, name in enumerate(self.labels)}
            number = record.class_of(self.label, names, key="label")
            fields["label"] = np.asarray([number], np.int32)
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> "PictureRows":
        return PictureRows(table, length, shape=(self.size, self.size, self.num_channels))

    def shapes(self, rows: int, length: int) -> Shapes:
        fields = {"label": np.int32, "loss_mask": np.float32, "example_index": np.uint32}
        shape = (rows, self.size, self.size, self.num_channels)
        return {
            "pixels": field_shape(shape, np.uint8),
            **{name: field_shape((rows,), kind) for name, kind in fields.items()},
        }


class PictureRows:
    """See `ExampleRows`: each row is a picture."""

    def __init__(self, table: Table, length: int, *, shape: tuple[int, int, int]) -> None:
        """length: of a row, as the network counts it. shape: of a picture, (H, W, C)."""
        self._table, self._length, self._shape = table, length, shape
        self.num_examples = self.num_rows = table.num_examples
        identity = [table.fingerprint, *shape]
        self.fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    @property
    def sizes(self) -> np.ndarray:
        """A picture fills its row."""
        return np.full(self.num_rows, self._length)

    @property
    def truncated(self) -> tuple[int, int]:
        """No picture loses anything in its row."""
        return 0, 0

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""
        return row

    def read(self, rows: Sequence[int]) -> Batch:
        pixels_BN = np.stack([self._table["pixels"][row] for row in rows])
        batch = {
            "pixels": pixels_BN.reshape(-1, *self._shape),
            "loss_mask": np.ones(len(rows), np.float32),
        }
        if "label" in self._table:
            batch["label"] = self._table["label"].scalars(list(rows)).astype(np.int32)
        return batch
