"""Text datasets of TensorFlow Datasets, prepared or generated as ArrayRecord.

TensorFlow itself is not needed: TFDS reads ArrayRecord files without it.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

from pydantic import Field

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import BadRecord, Record, Span, decode_utf8
from jaxllm.schema import Config
from jaxllm.storage import is_remote


class TfdsCorpusConfig(Config):
    """A TFDS dataset with a text feature, one document an example."""

    type: Literal["tfds"] = "tfds"
    """Kind of corpus: a TensorFlow Datasets dataset."""
    name: str
    """Name of the dataset (`name`, `name/config:1.0.0`), or the folder of a prepared one."""
    split: str = "train"
    """Split to read, in TFDS's notation (`train`, `train[:10%]`)."""
    text_key: str = "text"
    """Feature that holds the text."""
    data_dir: str | None = None
    """Folder of the prepared datasets; TFDS's own default when it is not given."""
    error_budget: int = Field(default=0, ge=0)
    """Number of examples that may be skipped because their text is not UTF-8."""

    def build(self) -> "TfdsCorpus":
        """The corpus; a dataset that is not prepared yet is generated when it is first read."""
        return TfdsCorpus(
            self.name, split=self.split, text_key=self.text_key, data_dir=self.data_dir
        )


class TfdsCorpus:
    """See `Corpus`; the one source is the folder of the prepared dataset, a span is rows."""

    def __init__(self, name: str, *, split: str, text_key: str, data_dir: str | None) -> None:
        self._name = name
        self._split = split
        self._text_key = text_key
        self._data_dir = data_dir

    def sources(self) -> tuple[str, ...]:
        return (str(self._prepared().data_path),)

    def files(self) -> tuple[Path, ...]:
        builder = self._prepared()
        instructions = self._split_info(builder).file_instructions
        return tuple(Path(instruction.filename) for instruction in instructions)

    def scan(self, source: str, span_bytes: int) -> list[Span]:
        info = self._split_info(self._open(source))
        rows, total = info.num_examples, info.num_bytes or 0
        row_bytes = max(1, total // max(1, rows))
        step = max(1, span_bytes // row_bytes)
        return [
            Span(source, start, stop, stop - start, start, (stop - start) * row_bytes)
            for start in range(0, rows, step)
            for stop in [min(start + step, rows)]
        ]

    def open(self) -> tuple[Any, Iterator[Any]]:
        """The features by name, and all examples of the split in order."""
        builder = self._prepared()
        info = self._split_info(builder)
        rows = builder.as_data_source(self._split)
        return builder.info.features, (rows[row] for row in range(info.num_examples))

    def read(self, span: Span) -> Iterator[Record]:
        rows = self._open(span.source).as_data_source(self._split)
        for row in range(span.start, span.stop):
            yield self._record(rows[row], f"{span.source}:{self._split}:example {row}")

    def _record(self, example: Any, where: str) -> Record:
        if self._text_key not in example:
            raise DatasetError(
                "corpus.text_key",
                f"{self._name!r} has no feature {self._text_key!r}; it has "
                f"{', '.join(sorted(example))}",
            )
        value = example[self._text_key]
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogatepass")
        if not isinstance(value, bytes):
            return BadRecord(where, f"{self._text_key!r} is a {type(value).__name__}, not text")
        return decode_utf8(value, where)

    def _split_info(self, builder: Any) -> Any:
        """The split, or an error that lists the splits there are."""
        try:
            return builder.info.splits[self._split]
        except (KeyError, ValueError) as error:
            raise DatasetError(
                "corpus.split",
                f"{self._name!r} has no split {self._split!r}; it has "
                f"{', '.join(builder.info.splits)}",
            ) from error

    def _prepared(self) -> Any:
        """The builder, its data generated when there is none; always in ArrayRecord."""
        import tensorflow_datasets as tfds

        for place in (self._name, self._data_dir or ""):
            if is_remote(place):
                raise DatasetError(
                    "corpus.name",
                    f"{place}: a TFDS dataset is not read from a bucket; copy it to this machine",
                )
        if (Path(self._name).expanduser() / "dataset_info.json").exists():
            builder = tfds.builder_from_directory(Path(self._name).expanduser())
        else:
            builder = self._by_name(tfds)
        if not builder.is_prepared():
            self._generate(builder)
            builder = tfds.builder_from_directory(builder.data_dir)
        _check_format(builder)
        return builder

    def _generate(self, builder: Any) -> None:
        """Writes the dataset into its folder, from the network unless it needs none."""
        import requests
        import tensorflow_datasets as tfds

        # Each failed attempt would be a warning; what comes of them is told once.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        try:
            builder.download_and_prepare(file_format="array_record")
        except ModuleNotFoundError as error:  # with the whole example in its message
            raise DatasetError(
                "corpus.name",
                f"{self._name!r} is not prepared in {builder.data_dir}, and TFDS needs TensorFlow "
                f"to make it; where that is installed run `tfds build {self._name} "
                f"--file_format=array_record`, and give the folder that it made",
            ) from error
        except (requests.RequestException, URLError, tfds.download.util.DownloadError) as error:
            raise DatasetError(
                "corpus.name",
                f"{self._name!r} is not prepared in {builder.data_dir}, and what it is made from "
                f"cannot be downloaded ({type(error).__name__}); run again with a network, or give "
                f"the folder of a prepared dataset",
            ) from error

    def _by_name(self, tfds: Any) -> Any:
        """TFDS's builder of that name, or an error that says in one line what a name may be."""
        is_folder = Path(self._name).expanduser().is_dir()
        if tfds.core.naming.is_valid_dataset_name(self._name):
            try:
                return tfds.builder(self._name, data_dir=self._data_dir)
            except tfds.core.DatasetNotFoundError as error:
                if not is_folder:
                    raise DatasetError(
                        "corpus.name",
                        f"TFDS knows no dataset {self._name!r}, and data_dir {self._data_dir!r} "
                        f"holds none of that name; give another name or data_dir",
                    ) from error
        problem = "has no dataset_info.json" if is_folder else "is no folder"
        raise DatasetError(
            "corpus.name",
            f"{self._name!r} {problem}; give the folder of a prepared dataset, the one with "
            f"dataset_info.json, or a TFDS name such as `name` or `name/config:1.0.0`",
        )

    def _open(self, folder: str) -> Any:
        import tensorflow_datasets as tfds

        return tfds.builder_from_directory(folder)


def _check_format(builder: Any) -> None:
    """Refuses formats that only TensorFlow reads."""
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise DatasetError(
            "corpus.name",
            f"{builder.data_dir} is stored as {file_format}, which needs TensorFlow to read; "
            f"where TensorFlow is installed, convert it with `tfds convert_format "
            f"--dataset_dir={builder.data_dir} --out_file_format=array_record --out_dir=FOLDER` "
            f"and give that folder as the name",
        )
