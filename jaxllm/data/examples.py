"""What datasets of examples share: a source of records, and which of them are held out.

A format of a task is one class and one file: which fields of a record it reads, what it keeps of
them on disk, and the rows that it makes of that.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import jax
import numpy as np
from pydantic import Field

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.dataset_weight import Weighted
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.rows import RowSource
from jaxllm.data.tokenizer import Tokenizer


class ExampleRows(RowSource, Protocol):
    """Rows of examples. One may be of a part of an example, or of several of them."""

    num_examples: int
    """How many examples there are."""

    @property
    def sizes(self) -> np.ndarray:
        """How many positions of each row are no filling, (num_rows,)."""

    @property
    def truncated(self) -> tuple[int, int]:
        """How many examples lose tokens, as their rows are too short, and how many tokens."""

    def example_of(self, row: int) -> int:
        """The number of the example that a row is of."""


class ExamplesConfig(Weighted):
    """A dataset of examples, prepared when they are first needed."""

    source: ExampleSourceConfig
    """Where the records come from."""
    group: str | None = None
    """Field whose equal values are held out together; null holds out each record by itself."""
    validation_every: int = Field(default=20, ge=0)
    """Every how many groups one is held out for validation; 0 for none."""

    columns: ClassVar[Mapping[str, ColumnKind]]
    """What may be kept of an example, by name; all examples have the same of them."""
    read_only: ClassVar[frozenset[str]] = frozenset()
    """Options that say how rows are made of what is kept, and not what is kept."""

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        """The examples that a record is, mostly one; each has the same columns.

        is_labelled: false where there is nothing to learn from or to compare with, as when a model
        is asked; then a column with `label` in its name is left out. DatasetError, naming the
        record, for one that is no example.
        """
        raise NotImplementedError

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> ExampleRows:
        """The rows of a table, of `length` positions. ValueError where nothing fits into these."""
        raise NotImplementedError

    def shapes(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the fields of a batch, with `example_index`."""
        raise NotImplementedError

    def group_of(self, record: ExampleRecord, number: int) -> str | int:
        """What must not be on both sides of the split; a record alone is its number."""
        return number if self.group is None else record.name(self.group, key="group")

    def is_held_out(self, group: int) -> bool:
        """Whether a group, by its number, is of the validation split."""
        every = self.validation_every
        return bool(every) and group % every == every - 1

    def check_split(self, *, train: int, held_out: int) -> None:
        """DatasetError where there is nothing to train on, or nothing to validate with."""
        if not train and not held_out:
            raise DatasetError("source", "the source is empty: it has no record")
        if not train and self.validation_every != 1:
            raise DatasetError(
                "validation_every",
                f"none of the {held_out} examples is left to train on; raise it, or give more",
            )
        if self.validation_every and not held_out:
            raise DatasetError(
                "validation_every",
                f"none of the {train} examples is held out; lower it, or set it to 0",
            )
