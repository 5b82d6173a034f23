"""Datasets of labelled texts: which fields of a record are read, and what its label is."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from jaxllm.data.batch import Shapes
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_frame import frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import TfdsExamplesConfig
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.label_counts import edge_names
from jaxllm.data.labelled_rows import COLUMNS, LabelKind, LabelledRows, labelled_shapes
from jaxllm.data.tokenizer import Tokenizer


class LabelledTextsConfig(ExamplesConfig):
    """Texts, or pairs of texts, of which each has a class, several classes, or a number."""

    type: Literal["labelled_texts"] = "labelled_texts"
    """Kind of dataset: labelled texts."""
    text: str = "text"
    """Field of the text."""
    text_pair: str | None = None
    """Field of the second text of a pair; null where there is one text."""
    label: str = "label"
    """Field of the class, of the classes or of the number."""
    label_kind: LabelKind = "class"
    """What texts are labelled with: one class, any number of classes, or a number."""
    label_separator: str = Field(default=",", min_length=1)
    """What stands between classes where these are one text, and not a list."""
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    """Names of the classes, in order, as they stand in the label's field; of texts with one class
    null is as a TFDS dataset names them."""
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
        "label_flags": "uint8",
        "label_number": "float32",
    }
    read_only: ClassVar[frozenset[str]] = frozenset({"is_cut"})

    @model_validator(mode="after")
    def _classes_are_known(self) -> Self:
        self._check_label_kind()
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a name is given twice")
        if any(low >= high for low, high in pairwise(self.label_edges or ())):
            raise ValueError("label_edges: give them in ascending order")
        if self.is_cut and self.text_pair is not None:
            raise ValueError("is_cut: a pair of texts is not cut; leave it out, or text_pair")
        return self

    def _check_label_kind(self) -> None:
        """ValueError where it is not said just once which classes there are."""
        given = [name for name in ("labels", "label_edges") if getattr(self, name) is not None]
        match self.label_kind:
            case "class":
                is_known = isinstance(self.source, TfdsExamplesConfig)
                if len(given) != 1 and not (is_known and not given):
                    raise ValueError(
                        "give labels, the names of the classes, or label_edges, the numbers "
                        "between them; or label_kind: number for texts that have a number"
                    )
            case "classes":
                if given != ["labels"]:
                    raise ValueError(
                        "label_kind=classes needs labels, their names, and these alone"
                    )
            case "number":
                if given:
                    raise ValueError(f"label_kind=number has no classes; leave out {given[0]}")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in order; None for numbers, and where only the source tells."""
        if self.labels is not None or self.label_edges is None:
            return self.labels
        return edge_names(self.label_edges)

    @property
    def unknown(self) -> tuple[str, ...]:
        is_known = self.label_kind == "number" or self.class_names is not None
        return () if is_known else ("labels",)

    def completed(self) -> Self:
        if not self.unknown:
            return self
        assert isinstance(self.source, TfdsExamplesConfig)
        return self.model_copy(update={"labels": self.source.class_names(self.label)})

    def texts(self, record: ExampleRecord) -> list[str]:
        found = [record.text(self.text, key="text")]
        if self.text_pair is not None:
            found.append(record.text(self.text_pair, key="text_pair"))
        return found

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        texts = zip(("text", "text_pair"), self.texts(record), strict=False)
        fields = {name: tokenizer.encode(text) for name, text in texts}
        if is_labelled:
            fields[COLUMNS[self.label_kind]] = self._label_of(record)
        return [fields]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> LabelledRows:
        num_texts = 1 if self.text_pair is None else 2
        frame = frame_of(tokenizer, num_texts=num_texts)
        return LabelledRows(table, length, frame=frame, is_cut=self.is_cut)

    def shapes(self, rows: int, length: int) -> Shapes:
        return labelled_shapes(
            rows,
            length,
            has_pairs=self.text_pair is not None,
            kind=self.label_kind,
            num_classes=len(self.class_names or ()),
        )

    def _number_of(self, record: ExampleRecord) -> float:
        number, most = record.number(self.label, key="label"), float(np.finfo(np.float32).max)
        if abs(number) > most:
            problem = f"{self.label!r} is {number:g}; give a number of at most {most:g}"
            raise DatasetError("label", f"{record.where}: {problem}")
        return number

    def _label_of(self, record: ExampleRecord) -> np.ndarray:
        """The class, a flag for each class, or the number."""
        if self.label_kind == "number":
            return np.asarray([self._number_of(record)], np.float32)
        if self.label_edges is not None:
            number = record.number(self.label, key="label")
            return np.asarray([bisect_right(self.label_edges, number)], np.int32)
        assert self.labels is not None, "`completed` comes first"
        names = {name: number for number, name in enumerate(self.labels)}
        if self.label_kind == "class":
            return np.asarray([record.class_of(self.label, names, key="label")], np.int32)
        chosen = record.classes_of(self.label, names, key="label", separator=self.label_separator)
        return np.isin(np.arange(len(names)), chosen).astype(np.uint8)
