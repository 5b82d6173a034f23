"""Examples on disk, encoded: complete, or not there at all.

    NAME-FINGERPRINT/
      examples.json     what it holds and what made it: `ExamplesCard`
      COLUMN.bin        the values of a column of all examples, one behind the other
      COLUMN.stops.npy  int64 (examples,): where each example stops in COLUMN.bin
      held_out.npy      bool  (examples,): whether it is of the validation split

Rows are made of these when they are read, so that their length can change.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import ValidationError

from jaxllm.data.content import content_hashes, write_atomically
from jaxllm.data.corpus import SplitName
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.dataset_folder import SourceCard
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import read_of_paths
from jaxllm.data.example_table import Column, Table, column_dtype, spans_of
from jaxllm.data.examples import ExamplesConfig, options_of
from jaxllm.data.missing import MissingData
from jaxllm.data.prepare import tfds_name
from jaxllm.data.remote_files import file_sizes
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.data.work_folder import work_folder
from jaxllm.schema import Config
from jaxllm.storage import is_remote

CARD = "examples.json"
HELD_OUT = "held_out.npy"
FORMAT_VERSION = 2
_TOLD_EVERY = 20  # examples from one word about the progress to the next

Progress = Callable[[str, int, int], None]


class ColumnCard(Config):
    """One column of a folder."""

    dtype: str
    """Type of a value, little-endian."""
    num_values: int
    """Values of all examples."""


class ExamplesCard(Config):
    """What a folder of examples holds, and what made it."""

    format: Literal[2] = 2
    """Version of the format."""
    name: str
    """Name of the dataset."""
    fingerprint: str
    """Hash of everything that decides the examples and what is kept of them."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    options: dict[str, Any]
    """How the records were read."""
    columns: dict[str, ColumnCard]
    """What is kept of the examples, by name."""
    num_train: int
    """Examples to train on."""
    num_held_out: int
    """Examples to validate with."""
    sources: tuple[SourceCard, ...]
    """The files that it was made from."""


def read_examples_card(folder: Path) -> ExamplesCard:
    """The card of a folder. ValueError for none, or a damaged one, or another version's."""
    try:
        return ExamplesCard.model_validate_json((folder / CARD).read_bytes())
    except OSError as error:
        raise ValueError(f"{folder} is no folder of examples: {error}") from error
    except ValidationError as error:
        problem = f"is not what this version writes ({error.errors()[0]['msg']})"
        raise _damaged(folder / CARD, problem) from error


def holds(folder: Path, dataset: ExamplesConfig, tokenizer: Tokenizer) -> bool:
    """Whether a folder is complete, and has these records read so with this tokenizer."""
    if not (folder / CARD).is_file():
        return False
    card = read_examples_card(folder)
    return (card.tokenizer, card.options) == (tokenizer.fingerprint, _options(dataset, tokenizer))


def completed(dataset: ExamplesConfig, folder: Path | None) -> ExamplesConfig:
    """See `ExamplesConfig.completed`; as in the folder that was made of it, where there is one.

    A folder of other options, as of another field's classes, is not asked.
    """
    if folder is not None and (folder / CARD).is_file():
        made = read_examples_card(folder).options
        known = {name: made.get(name) for name in dataset.unknown}
        whole = type(dataset).model_validate({**dataset.model_dump(), **known})
        if not whole.unknown and options_of(whole).items() <= made.items():
            return whole
    return dataset.completed()


def prepare_examples(
    dataset: ExamplesConfig,
    *,
    tokenizer: Tokenizer,
    root: Path,
    name: str,
    on_progress: Progress | None = None,
) -> Path:
    """Makes the folder of a dataset, or finds it made. DatasetError for records that are wrong."""
    if is_remote(root):
        raise ValueError(
            f"data.root={root}: examples are kept on a disk of each host; give a local folder"
        )
    paths = [_read_of(dataset, source, source.all_files) for source in dataset.sources]
    hashes = content_hashes(list(chain.from_iterable(paths)), cache=root / "content-hashes.json")
    identity = {
        "format": FORMAT_VERSION,
        "content": [[hashes[str(path)] for path in found] for found in paths],
        "options": _options(dataset, tokenizer),
        "files": [read_of_paths(source) for source in dataset.sources],
        "tokenizer": tokenizer.fingerprint,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = root / f"{tfds_name(name)}-{fingerprint[:12]}"
    if (folder / CARD).exists():
        return folder
    work = folder.with_name(f"{folder.name}.partial")
    with work_folder(work, is_worth_keeping=lambda error: False):
        if (folder / CARD).exists():  # another process made it meanwhile
            return folder
        made = work / "dataset"
        made.mkdir(exist_ok=True)
        columns, held_out = _write(made, dataset, tokenizer, on_progress or (lambda *told: None))
        card = ExamplesCard(
            name=name,
            fingerprint=fingerprint,
            tokenizer=tokenizer.fingerprint,
            options=_options(dataset, tokenizer),
            columns=columns,
            num_train=int((~held_out).sum()),
            num_held_out=int(held_out.sum()),
            sources=tuple(SourceCard(file=file, sha256=sha) for file, sha in hashes.items()),
        )
        write_atomically(made / CARD, card.model_dump_json(indent=2))
        made.rename(folder)
    return folder


def _options(dataset: ExamplesConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return options_of(dataset) | dataset.options_with(tokenizer)


class _ColumnWriter:
    """Writes one column, value behind value."""

    def __init__(self, file: IO[bytes], dtype: np.dtype) -> None:
        self._file, self._dtype = file, dtype
        self.stops: list[int] = []

    def add(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self._dtype).tobytes())
        self.stops.append((self.stops[-1] if self.stops else 0) + len(values))

    def card(self) -> ColumnCard:
        return ColumnCard(dtype=self._dtype.name, num_values=self.stops[-1])


def _write(
    folder: Path, dataset: ExamplesConfig, tokenizer: Tokenizer, tell: Progress
) -> tuple[dict[str, ColumnCard], np.ndarray]:
    """Writes the columns; their cards, and whether each example is held out."""
    columns: dict[str, _ColumnWriter] = {}
    held_out: list[bool] = []
    groups: dict[str | int, int] = {}
    num_read = 0
    num_bytes = sum(file_sizes([path for one in dataset.sources for path in one.all_files()]))
    with ExitStack() as files:
        for number, (record, is_apart) in enumerate(_records(dataset)):
            group = groups.setdefault(dataset.group_of(record, number), len(groups))
            for example in dataset.encode(record, tokenizer):
                for name, values in example.items():
                    if name not in columns:
                        kind = dataset.columns[name]
                        dtype = column_dtype(kind, vocab_size=tokenizer.vocab_size)
                        file = files.enter_context((folder / f"{name}.bin").open("wb"))
                        columns[name] = _ColumnWriter(file, dtype)
                    columns[name].add(values)
                held_out.append(is_apart or dataset.is_held_out(group))
            num_read += record.num_bytes
            if number % _TOLD_EVERY == 0:
                tell("tokenise", min(num_read, num_bytes), num_bytes)
    num_held_out = sum(held_out)
    dataset.check_split(train=len(held_out) - num_held_out, held_out=num_held_out)
    for name, column in columns.items():
        assert len(column.stops) == len(held_out), f"not every example has {name}"
        np.save(folder / f"{name}.stops.npy", np.asarray(column.stops, np.int64))
    is_held_out = np.asarray(held_out, bool)
    np.save(folder / HELD_OUT, is_held_out)
    return {name: column.card() for name, column in columns.items()}, is_held_out


def _records(dataset: ExamplesConfig) -> Iterator[tuple[ExampleRecord, bool]]:
    """The records of all sources, and whether each comes from the one for validation."""
    for source in dataset.sources:
        is_apart = source is dataset.validation_source
        records = source.records()
        while (record := _read_of(dataset, source, partial(next, records, None))) is not None:
            yield record, is_apart


def _read_of[T](dataset: ExamplesConfig, source: Any, read: Callable[[], T]) -> T:
    """What `read` gives; of the source for validation, errors have its key."""
    try:
        return read()
    except ValueError as error:
        if source is dataset.source:
            raise
        raise _of_validation(error) from error


def _of_validation(error: ValueError) -> ValueError:
    if isinstance(error, MissingData):
        return MissingData(*map(_of_validation, error.problems))
    if isinstance(error, DatasetError) and error.key.partition(".")[0] == "source":
        return DatasetError(f"validation_{error.key}", error.problem)
    return error


def open_examples(folder: Path) -> dict[SplitName, Table]:
    """The splits of a folder that have examples, on disk until they are read.

    ValueError for a folder that is none, or is damaged.
    """
    card = read_examples_card(folder)
    held_out = _loaded(folder / HELD_OUT, np.dtype(bool), card.num_train + card.num_held_out)
    if held_out.sum() != card.num_held_out:
        raise _damaged(folder / HELD_OUT, f"holds out {held_out.sum()}, not {card.num_held_out}")
    columns = {
        name: _open_column(folder, name, one, num_examples=len(held_out))
        for name, one in card.columns.items()
    }
    whole = Table(columns, len(held_out), card.fingerprint)
    sides: dict[SplitName, np.ndarray] = {"train": ~held_out, "validation": held_out}
    return {
        split: whole.select(np.flatnonzero(side), fingerprint=f"{card.fingerprint}:{split}")
        for split, side in sides.items()
        if side.any()
    }


def _open_column(folder: Path, name: str, card: ColumnCard, *, num_examples: int) -> Column:
    dtype = np.dtype(card.dtype).newbyteorder("<")
    path, stops_path = folder / f"{name}.bin", folder / f"{name}.stops.npy"
    size = path.stat().st_size if path.is_file() else 0
    if size != card.num_values * dtype.itemsize:
        raise _damaged(path, f"has {size} bytes, not those of {card.num_values} values")
    stops = _loaded(stops_path, np.dtype(np.int64), num_examples)
    is_in_order = (np.diff(stops, prepend=0) >= 0).all()
    if not is_in_order or stops[-1] != card.num_values:
        raise _damaged(stops_path, f"does not end one example behind the other in {path.name}")
    values = np.memmap(path, dtype, "r") if card.num_values else np.zeros(0, dtype)
    return Column(values, spans_of(stops))


def _loaded(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    """An array of so many numbers. ValueError for a file that has another, or none."""
    try:
        found = np.load(path)
    except (OSError, EOFError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from error
    if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (dtype, (size,)):
        raise _damaged(path, f"does not have {size} numbers of type {dtype}")
    return found


def _damaged(path: Path, problem: str) -> ValueError:
    return ValueError(
        f"{path} {problem}; it is damaged: remove the folder {path.parent}, and it is made anew"
    )
