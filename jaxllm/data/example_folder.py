"""Labelled texts on disk, tokenised: complete, or not there at all.

    NAME-FINGERPRINT/
      examples.json  what it holds and what made it: `ExamplesCard`
      tokens.bin     the tokens of all texts, one behind the other, without special ones
      stops.npy      int64 (examples, texts of one): where each text stops in tokens.bin
      labels.npy     int32 (examples,): classes
      held_out.npy   bool  (examples,): whether it is of the validation split

Rows are made of these when they are read, so that their length can change.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from jaxllm.data.content import content_hashes, write_atomically
from jaxllm.data.corpus import SplitName
from jaxllm.data.dataset_folder import SourceCard
from jaxllm.data.examples import ExamplesDatasetConfig
from jaxllm.data.prepare import tfds_name
from jaxllm.data.tokenizer import Tokenizer, token_dtype
from jaxllm.data.work_folder import work_folder
from jaxllm.schema import Config

CARD = "examples.json"
FORMAT_VERSION = 1
# What changes neither the examples nor their tokens, and where they lie.
_NOT_CONTENT: Any = {
    "weight": True,
    "is_cut": True,
    "source": {"paths", "files", "name", "data_dir"},
}
_TOLD_EVERY = 20  # examples from one word about the progress to the next

Progress = Callable[[str, int, int], None]


class ExamplesCard(Config):
    """What a folder of examples holds, and what made it."""

    format: Literal[1] = 1
    """Version of the format."""
    name: str
    """Name of the dataset."""
    fingerprint: str
    """Hash of everything that decides the examples and their tokens."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    dtype: Literal["uint16", "uint32"]
    """Type of an id in tokens.bin, little-endian."""
    options: dict[str, Any]
    """How the records were read."""
    class_names: tuple[str, ...]
    """The classes, in order."""
    num_tokens: int
    """Tokens of all texts."""
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


def holds(folder: Path, dataset: ExamplesDatasetConfig, tokenizer: Tokenizer) -> bool:
    """Whether a folder is complete, and has these records read so with this tokenizer."""
    if not (folder / CARD).is_file():
        return False
    card = read_examples_card(folder)
    return (card.tokenizer, card.options) == (tokenizer.fingerprint, _options(dataset))


def prepare_examples(
    dataset: ExamplesDatasetConfig,
    *,
    tokenizer: Tokenizer,
    root: Path,
    name: str,
    on_progress: Progress | None = None,
) -> Path:
    """Makes the folder of a dataset, or finds it made. DatasetError for records that are wrong."""
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
        counts = _write(made, dataset, tokenizer, on_progress or (lambda *told: None))
        card = ExamplesCard(
            name=name,
            fingerprint=fingerprint,
            tokenizer=tokenizer.fingerprint,
            dtype="uint16" if token_dtype(tokenizer.vocab_size).itemsize == 2 else "uint32",
            options=_options(dataset),
            class_names=dataset.class_names,
            sources=tuple(SourceCard(file=file, sha256=sha) for file, sha in hashes.items()),
            **counts,
        )
        write_atomically(made / CARD, card.model_dump_json(indent=2))
        made.rename(folder)
    return folder


def _options(dataset: ExamplesDatasetConfig) -> dict[str, Any]:
    return dataset.model_dump(mode="json", exclude=_NOT_CONTENT)


def _write(
    folder: Path, dataset: ExamplesDatasetConfig, tokenizer: Tokenizer, tell: Progress
) -> dict[str, int]:
    """Writes the arrays, and counts what is in them."""
    dtype = token_dtype(tokenizer.vocab_size)
    stops: list[int] = []
    labels: list[int] = []
    held_out: list[bool] = []
    groups: dict[str | int, int] = {}
    end = num_read = 0
    num_bytes = sum(path.stat().st_size for path in dataset.source.all_files())
    with (folder / "tokens.bin").open("wb") as file:
        for number, example in enumerate(dataset.examples()):
            for text in example.texts:
                ids = tokenizer.encode(text).astype(dtype)
                file.write(ids.tobytes())
                end += len(ids)
                stops.append(end)
            labels.append(example.label)
            of = number if example.group is None else example.group
            held_out.append(_is_held_out(groups.setdefault(of, len(groups)), dataset))
            num_read += sum(len(text.encode()) for text in example.texts)
            if number % _TOLD_EVERY == 0:
                tell("tokenise", min(num_read, num_bytes), num_bytes)
    num_held_out = sum(held_out)
    dataset.check_split(train=len(labels) - num_held_out, held_out=num_held_out)
    np.save(folder / "stops.npy", np.asarray(stops, np.int64).reshape(len(labels), -1))
    np.save(folder / "labels.npy", np.asarray(labels, np.int32))
    np.save(folder / "held_out.npy", np.asarray(held_out, bool))
    return {
        "num_tokens": end,
        "num_train": len(labels) - num_held_out,
        "num_held_out": num_held_out,
    }


def _is_held_out(group: int, dataset: ExamplesDatasetConfig) -> bool:
    every = dataset.validation_every
    return bool(every) and group % every == every - 1


class OpenExamples:
    """The arrays of a folder, on disk until they are read."""

    def __init__(self, folder: Path) -> None:
        """ValueError for a folder that is none, or is damaged."""
        self.card = read_examples_card(folder)
        dtype = np.dtype(self.card.dtype).newbyteorder("<")
        path = folder / "tokens.bin"
        if path.stat().st_size != self.card.num_tokens * dtype.itemsize:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, not those of {self.card.num_tokens} "
                "tokens; it is damaged: remove the folder, and it is made anew"
            )
        self.tokens = np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        stops = np.load(folder / "stops.npy", mmap_mode="r")
        starts = np.concatenate([np.zeros(1, np.int64), stops.reshape(-1)[:-1]])
        self.spans = np.stack([starts.reshape(stops.shape), stops], axis=-1)
        """Where the texts of each example lie in `tokens`: (examples, texts, 2)."""
        self._held_out = np.load(folder / "held_out.npy", mmap_mode="r")

    @property
    def num_texts(self) -> int:
        """Texts of one example: 1, or 2 of a pair."""
        return self.spans.shape[1]

    def of_split(self, split: SplitName) -> np.ndarray:
        """The numbers of the split's examples, in order."""
        return np.flatnonzero(self._held_out == (split == "validation"))
