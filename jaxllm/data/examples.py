"""Datasets of labelled texts: which fields of a record are read, and what its class is."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.dataset_weight import Weighted
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig


class Example(NamedTuple):
    """One labelled text, or pair of texts.

    group: what must not be on both sides of the split; None stands for the example alone.
    """

    texts: tuple[str, ...]
    label: int
    group: str | None


class ExamplesDatasetConfig(Weighted):
    """Labelled texts, tokenised when they are first needed."""

    type: Literal["examples"] = "examples"
    """Kind of dataset: labelled texts."""
    source: ExampleSourceConfig
    """Where the records come from."""
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
    group: str | None = None
    """Field whose equal values are held out together; null holds out each record by itself."""
    validation_every: int = Field(default=20, ge=0)
    """Every how many groups one is held out for validation; 0 for none."""
    is_cut: bool = False
    """Whether a text longer than a row becomes several rows, each with its class; else it is
    truncated."""

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

    def examples(self) -> Iterator[Example]:
        """The examples in order. DatasetError, naming the record, for one that is none."""
        names = {name: number for number, name in enumerate(self.labels or ())}
        for record in self.source.records():
            texts = [record.text(self.text, key="text")]
            if self.text_pair is not None:
                texts.append(record.text(self.text_pair, key="text_pair"))
            group = None if self.group is None else record.name(self.group, key="group")
            yield Example(tuple(texts), self._class_of(record, names), group)

    def _class_of(self, record: ExampleRecord, names: dict[str, int]) -> int:
        if self.label_edges is None:
            return record.class_of(self.label, names, key="label")
        return bisect_right(self.label_edges, record.number(self.label, key="label"))

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
