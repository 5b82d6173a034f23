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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from pydantic import ValidationError

from jaxllm.data.content import content_hashes, write_atomically
from jaxllm.data.corpus import SplitName
from jaxllm.data.dataset_folder import SourceCard
from jaxllm.data.example_table import Column, Table, column_dtype, spans_of
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.prepare import tfds_name
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.data.work_folder import work_folder
from jaxllm.schema import Config
from jaxllm.storage import is_remote

CARD = "examples.json"
HELD_OUT = "held_out.npy"
FORMAT_VERSION = 2
# What changes neither the examples nor what is kept of them, and where they lie.
_NOT_CONTENT: Any = {"weight": True, "source": {"paths", "files", "name", "data_dir"}}
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
    """The card of a folder. ValueError for one that is none."""
    try:
        return ExamplesCard.model_validate_json((folder / CARD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(f"{folder} is no folder of examples: {error}") from error


def holds(folder: Path, dataset: ExamplesConfig, tokenizer: Tokenizer) -> bool:
    """Whether a folder is complete, and has these records read so with this tokenizer."""
    if not (folder / CARD).is_file():
        return False
    card = read_examples_card(folder)
    return (card.tokenizer, card.options) == (tokenizer.fingerprint, _options(dataset))


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
    hashes = content_hashes(dataset.source.all_files(), cache=root / "content-hashes.json")
    identity = {
        "format": FORMAT_VERSION,
        "content": list(hashes.values()),
        "options": _options(dataset),
        "files": sorted(getattr(dataset.source, "files", ())),
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
            options=_options(dataset),
            columns=columns,
            num_train=int((~held_out).sum()),
            num_held_out=int(held_out.sum()),
            sources=tuple(SourceCard(file=file, sha256=sha) for file, sha in hashes.items()),
        )
        write_atomically(made / CARD, card.model_dump_json(indent=2))
        made.rename(folder)
    return folder


def _options(dataset: ExamplesConfig) -> dict[str, Any]:
    outside = _NOT_CONTENT | dict.fromkeys(dataset.read_only, True)
    return dataset.model_dump(mode="json", exclude=outside)


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
    num_bytes = sum(path.stat().st_size for path in dataset.source.all_files())
    with ExitStack() as files:
        for number, record in enumerate(dataset.source.records()):
            group = groups.setdefault(dataset.group_of(record, number), len(groups))
            for example in dataset.encode(record, tokenizer):
                for name, values in example.items():
                    if name not in columns:
                        kind = dataset.columns[name]
                        dtype = column_dtype(kind, vocab_size=tokenizer.vocab_size)
                        file = files.enter_context((folder / f"{name}.bin").open("wb"))
                        columns[name] = _ColumnWriter(file, dtype)
                    columns[name].add(values)
                held_out.append(dataset.is_held_out(group))
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


def open_examples(folder: Path) -> dict[SplitName, Table]:
    """The splits of a folder that have examples, on disk until they are read.

    ValueError for a folder that is none, or is damaged.
    """
    card = read_examples_card(folder)
    held_out = np.load(folder / HELD_OUT)
    columns = {name: _open_column(folder, name, one) for name, one in card.columns.items()}
    whole = Table(columns, len(held_out), card.fingerprint)
    sides: dict[SplitName, np.ndarray] = {"train": ~held_out, "validation": held_out}
    return {
        split: whole.select(np.flatnonzero(side), fingerprint=f"{card.fingerprint}:{split}")
        for split, side in sides.items()
        if side.any()
    }


def _open_column(folder: Path, name: str, card: ColumnCard) -> Column:
    dtype = np.dtype(card.dtype).newbyteorder("<")
    path = folder / f"{name}.bin"
    if path.stat().st_size != card.num_values * dtype.itemsize:
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, not those of {card.num_values} values; it is "
            "damaged: remove the folder, and it is made anew"
        )
    values = np.memmap(path, dtype, "r") if card.num_values else np.zeros(0, dtype)
    return Column(values, spans_of(np.load(folder / f"{name}.stops.npy")))
