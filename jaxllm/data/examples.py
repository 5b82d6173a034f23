"""What datasets of examples share: a source of records, and which of them are held out.

A format of a task is one class and one file: which fields of a record it reads, what it keeps of
them on disk, and the rows that it makes of that.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from jaxllm.data.batch import Shapes
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
    validation_source: ExampleSourceConfig | None = None
    """Where those that are held out come from, if they are apart; null holds out some of source."""
    group: str | None = None
    """Field whose equal values are held out together; null holds out each record by itself."""
    validation_every: int = Field(default=20, ge=0)
    """Every how many groups one is held out for validation; 0 for none, as beside a
    validation_source."""

    columns: ClassVar[Mapping[str, ColumnKind]]
    """What may be kept of an example, by name; all examples have the same of them."""
    has_text: ClassVar[bool] = True
    """Whether a tokenizer reads what is in them."""
    read_only: ClassVar[frozenset[str]] = frozenset()
    """Options that say how rows are made of what is kept, and not what is kept."""

    @model_validator(mode="before")
    @classmethod
    def _held_out_once(cls, given: Any) -> Any:
        """A set that comes with its own validation split needs no other."""
        if isinstance(given, dict) and given.get("validation_source") is not None:
            if given.get("validation_every"):
                raise ValueError(
                    f"validation_every={given['validation_every']} holds out examples of source, "
                    "and validation_source has others; leave one of them out"
                )
            return {**given, "validation_every": 0}
        return given

    @model_validator(mode="after")
    def _sources_differ(self) -> Self:
        if self.validation_source == self.source:
            raise ValueError("validation_source is what source is; give what is held out, or null")
        return self

    @property
    def sources(self) -> tuple[ExampleSourceConfig, ...]:
        """What records are read from: to train on, and to validate with if that is apart."""
        return (self.source, *([self.validation_source] if self.validation_source else []))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Options that are null, and of which only the source tells what they stand for."""
        return ()

    def completed(self) -> Self:
        """With what is `unknown`; the source may be read for that."""
        return self

    @abstractmethod
    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        """The examples that a record is, mostly one; each has the same columns.

        is_labelled: false where there is nothing to learn from or to compare with, as when a model
        is asked; then a column with `label` in its name is left out. DatasetError, naming the
        record, for one that is no example.
        """

    def options_with(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What of a tokenizer decides the examples beside the ids that it gives, as JSON."""
        return {}

    @abstractmethod
    def texts(self, record: ExampleRecord) -> list[str]:
        """What a tokenizer may learn from a record, as `encode` reads it; none where it has none.

        DatasetError, naming the record, for one without them.
        """

    @abstractmethod
    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> ExampleRows:
        """The rows of a table, of `length` positions. ValueError where nothing fits into these."""

    @abstractmethod
    def shapes(self, rows: int, length: int) -> Shapes:
        """Shapes and dtypes of the fields of a batch, with `example_index`."""

    def told(self, splits: Sequence[ExampleRows], *, name: str, length: int) -> list[str]:
        """What a user is told of the rows of all splits, a sentence each: what they leave out.

        name: of the dataset.
        """
        lost = [rows.truncated for rows in splits]
        examples, tokens = (sum(column) for column in zip(*lost, strict=True))
        if not examples:
            return []
        count = sum(rows.num_examples for rows in splits)
        can_cut = "is_cut" in type(self).model_fields and getattr(self, "text_pair", None) is None
        return [
            f"{name}: {examples:,} of {count:,} examples are longer than data.sequence_length="
            f"{length} and are truncated, by {tokens:,} tokens in all; raise it"
            + (f", or set data.datasets.{name}.is_cut" if can_cut else "")
        ]

    def group_of(self, record: ExampleRecord, number: int) -> str | int:
        """What must not be on both sides of the split; a record alone is its number."""
        return number if self.group is None else record.name(self.group, key="group")

    def records_of_training(self) -> Iterator[ExampleRecord]:
        """The records that are not held out, in order."""
        groups: dict[str | int, int] = {}
        for number, record in enumerate(self.source.records()):
            group = groups.setdefault(self.group_of(record, number), len(groups))
            if not self.is_held_out(group):
                yield record

    def is_held_out(self, group: int) -> bool:
        """Whether a group of `source`, by its number, is of the validation split."""
        every = self.validation_every
        return bool(every) and group % every == every - 1

    def check_split(self, *, train: int, held_out: int) -> None:
        """DatasetError where there is nothing to train on, or nothing to validate with."""
        if not train and not held_out:
            raise DatasetError("source", "the source is empty: it has no record")
        if not train and self.validation_source is not None:
            raise DatasetError("source", "the source is empty: it has no record")
        if not held_out and self.validation_source is not None:
            raise DatasetError("validation_source", "the source is empty: it has no record")
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


# What changes neither the examples nor what is kept of them, and where they lie.
_PLACE = {"paths", "files", "name", "data_dir"}
_NOT_CONTENT: Any = {"weight": True, "source": _PLACE, "validation_source": _PLACE}


def options_of(dataset: ExamplesConfig) -> dict[str, Any]:
    """How records are read, as JSON: what decides the examples beside the content of the files."""
    outside = _NOT_CONTENT | dict.fromkeys(dataset.read_only, True)
    return dataset.model_dump(mode="json", exclude=outside)
