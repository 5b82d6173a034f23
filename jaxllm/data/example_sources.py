"""Where examples come from: JSON lines, tables, Parquet files, TFDS datasets and others."""

import glob
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from jaxllm.data.compression import open_stream
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import expand_paths
from jaxllm.data.example_conll import ConllExamplesConfig
from jaxllm.data.example_files import FilesExamplesConfig
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_squad import SquadExamplesConfig
from jaxllm.data.example_tables import TableExamplesConfig
from jaxllm.data.missing import MissingData
from jaxllm.data.tfds_corpus import TfdsCorpus
from jaxllm.schema import Config

PATHS = "source.paths"


class JsonlExamplesConfig(Config):
    """JSON lines in UTF-8, a record a line; compressed files are named .gz or .zst."""

    type: Literal["jsonl"] = "jsonl"
    """Kind of source: JSON lines."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content."""
        return expand_paths(self.paths, key=PATHS)

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order. DatasetError for a line that is none; blank ones are no record."""
        for path in self.all_files():
            with open_stream(str(path)) as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _parsed(line, f"{path}:{number}")


def _parsed(line: bytes, where: str) -> ExampleRecord:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(PATHS, f"{where}: not a line of JSON: {error}") from error
    if not isinstance(value, dict):
        raise DatasetError(PATHS, f"{where}: not a JSON object but a {type(value).__name__}")
    return ExampleRecord(value, where)


def source_of(path: Path) -> "ExampleSourceConfig":
    """The source that a file is, by its name. ValueError for one of another kind, or none."""
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    plain_name = path.name.removesuffix(".gz").removesuffix(".zst")
    paths = (glob.escape(str(path)),)
    if plain_name.endswith((".jsonl", ".ndjson")):
        return JsonlExamplesConfig(paths=paths)
    if plain_name.endswith((".csv", ".tsv", ".tab")):
        return TableExamplesConfig(paths=paths)
    if plain_name.endswith(".conll"):
        return ConllExamplesConfig(paths=paths)
    if plain_name.endswith(".json"):
        return SquadExamplesConfig(paths=paths)
    if path.suffix == ".parquet":
        return ParquetExamplesConfig(paths=paths)
    raise ValueError(
        f"{path}: give a file named .jsonl, .csv, .tsv, .conll, .json of SQuAD (also .gz, .zst) or "
        ".parquet"
    )


class ParquetExamplesConfig(Config):
    """Parquet files, a record a row."""

    type: Literal["parquet"] = "parquet"
    """Kind of source: Parquet files."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content."""
        return expand_paths(self.paths, key=PATHS)

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order, named by the number of their row, from 0."""
        import pyarrow
        import pyarrow.parquet

        for path in self.all_files():
            row = 0
            try:
                with pyarrow.parquet.ParquetFile(path) as file:
                    for batch in file.iter_batches(256):
                        for fields in batch.to_pylist():
                            yield ExampleRecord(fields, f"{path}:row {row}")
                            row += 1
            except (pyarrow.ArrowException, UnicodeDecodeError) as error:
                raise DatasetError(
                    PATHS, f"{path} cannot be read behind row {row}: {error}"
                ) from error


class TfdsExamplesConfig(Config):
    """A dataset of TensorFlow Datasets, a record an example; its classes go by their names."""

    type: Literal["tfds"] = "tfds"
    """Kind of source: a TensorFlow Datasets dataset."""
    name: str
    """Name of the dataset (`name`, `name/config:1.0.0`), or the folder of a prepared one."""
    split: str = "train"
    """Split to read, in TFDS's notation (`train`, `train[:10%]`)."""
    data_dir: str | None = None
    """Folder of the prepared datasets; TFDS's own default when it is not given."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content; the dataset is generated if there is none."""
        try:
            return self._corpus().files()
        except DatasetError as error:
            raise _of_source(error) from error

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order."""
        features, examples = self._open()
        named = {name: _names(feature) for name, feature in features.items()}
        for number, example in enumerate(examples):
            fields = {name: _plain(value, named.get(name)) for name, value in example.items()}
            yield ExampleRecord(fields, f"{self.name}:{self.split}:example {number}")

    def class_names(self, field: str) -> tuple[str, ...]:
        """What the classes of a feature are called, in order. DatasetError where it has none."""
        features, _ = self._open()
        if field not in features:
            there = ", ".join(map(repr, sorted(features)))
            raise DatasetError("label", f"{self.name} has no feature {field!r}, only {there}")
        names = _names(features[field])
        if names is None:
            raise DatasetError(
                "labels",
                f"the feature {field!r} of {self.name} does not say what its classes are called; "
                "give their names, or label_kind: number for a feature that is a number",
            )
        return tuple(names)

    def _open(self) -> tuple[Any, Iterator[Any]]:
        try:
            return self._corpus().open()
        except DatasetError as error:
            raise _of_source(error) from error

    def _corpus(self) -> TfdsCorpus:
        return TfdsCorpus(self.name, split=self.split, text_key="", data_dir=self.data_dir)


def _of_source(error: DatasetError) -> ValueError:
    """The error of a corpus under the key that it has here."""
    own = DatasetError(error.key.replace("corpus.", "source."), error.problem)
    return MissingData(own) if isinstance(error, MissingData) else own


def _names(feature: Any) -> list[str] | None:
    """What the classes of a feature, or of those in a sequence, are called; None without names."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Sequence):
        feature = feature.feature
    return feature.names if isinstance(feature, tfds.features.ClassLabel) else None


def _plain(value: Any, names: list[str] | None) -> Any:
    """A feature's value as text or number; of a class its name. -1 is none, in hidden tests."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, Mapping):  # of sequences of several features, such as answers
        return {name: _plain(one, None) for name, one in value.items()}
    if isinstance(value, list) or getattr(value, "ndim", 0) == 1:
        return [_plain(one, names) for one in value]
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    if names is not None and isinstance(number, int) and 0 <= number < len(names):
        return names[number]
    return number


ExampleSourceConfig = Annotated[
    JsonlExamplesConfig
    | TableExamplesConfig
    | ParquetExamplesConfig
    | TfdsExamplesConfig
    | FilesExamplesConfig
    | ConllExamplesConfig
    | SquadExamplesConfig,
    Field(discriminator="type"),
]


def read_of_paths(source: ExampleSourceConfig) -> list[list[str]]:
    """What records have of the paths of their files, beside what is in these, as JSON."""
    if isinstance(source, FilesExamplesConfig | TableExamplesConfig):
        return source.read_of_paths()
    return []
