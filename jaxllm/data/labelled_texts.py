"""Datasets of labelled texts: which fields of a record are read, and what its class is."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal, Self

import jax
import numpy as np
from pydantic import Field, model_validator

from jaxllm.data.example_frame import frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.labelled_rows import LabelledRows, labelled_shapes
from jaxllm.data.tokenizer import Tokenizer


class LabelledTextsConfig(ExamplesConfig):
    """Texts, or pairs of texts, of which each has a class."""

    type: Literal["labelled_texts"] = "labelled_texts"
    """Kind of dataset: labelled texts."""
    text: str = "text"
    """Field of the text."""
    text_pair: str | None = None
    """Field of the second text of a pair; null where there is one text."""
    label: str = "label"
    """Field of the class."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Names of the classes, in order, as they stand in the label's field."""
    label_edges: tuple[float, ...] | None = Field(default=None, min_length=1)
    """Where the classes of a number begin, ascending: one is below the first edge, the last from
    the last edge on; instead of labels."""
    is_cut: bool = False
    """Whether a text longer than a row becomes several rows, each with its class; else it is
    truncated."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {
        "text": "tokens",
        "text_pair": "tokens",
        "label": "int32",
    }
    read_only: ClassVar[frozenset[str]] = frozenset({"is_cut"})

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        if (self.labels is None) == (self.label_edges is None):
            raise ValueError(
                "give labels, the names of the classes, or label_edges, the numbers between them"
            )
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a name is given twice")
        if any(low >= high for low, high in pairwise(self.label_edges or ())):
            raise ValueError("label_edges: give them in ascending order")
        if self.is_cut and self.text_pair is not None:
            raise ValueError("is_cut: a pair of texts is not cut; leave it out, or text_pair")
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        if self.labels is not None:
            return self.labels
        edges = [f"{edge:g}" for edge in self.label_edges or ()]
        between = [f"{low} to {high}" for low, high in pairwise(edges)]
        return (f"below {edges[0]}", *between, f"{edges[-1]} and above")

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        fields = {"text": tokenizer.encode(record.text(self.text, key="text"))}
        if self.text_pair is not None:
            fields["text_pair"] = tokenizer.encode(record.text(self.text_pair, key="text_pair"))
        if is_labelled:
            fields["label"] = np.asarray([self._class_of(record)], np.int32)
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> LabelledRows:
        num_texts = 1 if self.text_pair is None else 2
        frame = frame_of(tokenizer, num_texts=num_texts)
        return LabelledRows(table, length, frame=frame, is_cut=self.is_cut)

    def shapes(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        return labelled_shapes(rows, length, has_pairs=self.text_pair is not None)

    def _class_of(self, record: ExampleRecord) -> int:
        if self.labels is None:
            assert self.label_edges is not None
            return bisect_right(self.label_edges, record.number(self.label, key="label"))
        names = {name: number for number, name in enumerate(self.labels)}
        return record.class_of(self.label, names, key="label")
