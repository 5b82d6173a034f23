"""The data of a run: which datasets, in which mixture, with which tokenizer, cut how."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from jaxllm.data.corpus import CorpusConfig
from jaxllm.data.dataset_folder import SIDECAR, TOKENIZER_FOLDER, read_card
from jaxllm.data.loader import TrainLoader, ValidationLoader
from jaxllm.data.prepare import Progress, tokenise_corpus
from jaxllm.data.streams import BinStream, PreparedStream, SyntheticStream, TokenStream
from jaxllm.data.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer
from jaxllm.data.tokenizer_training import prepare_tokenizer
from jaxllm.schema import Config


class _Weighted(Config):
    weight: float = Field(default=1.0, ge=0)
    """Share of the training rows, relative to the other datasets; 0 to validate only."""


class CorpusDatasetConfig(_Weighted):
    """Raw text, tokenised when it is first needed."""

    type: Literal["corpus"] = "corpus"
    """Kind of dataset: raw text."""
    corpus: CorpusConfig
    """Where the text comes from."""
    validation_every: int = Field(default=20, ge=0)
    """Every how many documents one is held out for validation; 0 for none."""


class PreparedDatasetConfig(_Weighted):
    """A dataset that was tokenised before."""

    type: Literal["prepared"] = "prepared"
    """Kind of dataset: an existing folder of tokens."""
    path: str
    """Folder of the dataset, the one that holds tokens.json."""


class BinDatasetConfig(_Weighted):
    """Files of token ids without a header, memory-mapped."""

    type: Literal["bin"] = "bin"
    """Kind of dataset: raw files of token ids."""
    train: str
    """File of the training tokens."""
    validation: str | None = None
    """File of the validation tokens, if there is one."""
    dtype: Literal["uint16", "uint32", "int32"] = "uint16"
    """Type of an id in the files, little-endian."""
    vocab_size: int = Field(gt=1)
    """Number of ids of the vocabulary."""
    delimiter_id: int = Field(ge=0)
    """The id that opens each document."""


class SyntheticDatasetConfig(_Weighted):
    """Pseudo-random tokens, for benchmarks."""

    type: Literal["synthetic"] = "synthetic"
    """Kind of dataset: pseudo-random tokens."""
    num_tokens: int = Field(default=1 << 30, gt=1)
    """Number of training tokens."""
    validation_tokens: int = Field(default=1 << 16, gt=1)
    """Number of validation tokens."""
    vocab_size: int = Field(default=32768, gt=1, le=1 << 31)
    """Number of ids; 0 is the delimiter."""
    mean_document_tokens: int = Field(default=512, gt=1)
    """Mean length of a document in tokens."""
    seed: int = Field(default=0, ge=0)
    """Seed of the tokens."""


DatasetConfig = Annotated[
    CorpusDatasetConfig | PreparedDatasetConfig | BinDatasetConfig | SyntheticDatasetConfig,
    Field(discriminator="type"),
]


class DataConfig(Config):
    """The data of a run."""

    sequence_length: int = Field(gt=0)
    """Number of tokens in a row."""
    global_batch_size: int = Field(gt=0)
    """Number of rows in a step, over all hosts."""
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    """Datasets by name; each one's validation split is evaluated under that name."""
    tokenizer: TokenizerConfig | None = None
    """Tokenizer of the corpora; without one, that of the prepared datasets is used."""
    root: str = "data"
    """Folder where tokenised datasets and trained tokenizers are kept."""
    workers: int | None = Field(default=None, gt=0)
    """Processes that tokenise; one a core when it is not given."""
    shuffle: bool = True
    """Whether the training rows are shuffled, anew in each epoch."""
    prefetch: int = Field(default=2, gt=0)
    """Number of batches that are read ahead, each in a thread."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if not any(dataset.weight for dataset in self.datasets.values()):
            raise ValueError("every dataset has weight 0, so there is none to train on")
        return self

    def build(
        self,
        *,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
        folders: Mapping[str, Path] | None = None,
        on_progress: Progress | None = None,
    ) -> "Data":
        """Prepares what is missing and opens everything; see `Data`.

        `tokenizer` is one that exists already, as that of a trained model; by default it is
        made as the config says. `folders` are tokenised datasets that a run used before: where
        they are there, and of this tokenizer, the raw text is not looked at.
        """
        tokenizer = tokenizer or self._tokenizer(seed)
        folders = self._folders(tokenizer, folders or {}, on_progress)
        streams = {
            name: _open_streams(dataset, folders.get(name))
            for name, dataset in self.datasets.items()
        }
        _check_vocabularies(tokenizer, streams)
        return Data(config=self, tokenizer=tokenizer, folders=folders, streams=streams)

    def _tokenizer(self, seed: int) -> Tokenizer | None:
        """The configured tokenizer, or that of the prepared datasets, or None."""
        corpora = [d for d in self.datasets.values() if isinstance(d, CorpusDatasetConfig)]
        if self.tokenizer is not None:
            held = [(dataset.corpus, dataset.validation_every) for dataset in corpora]
            return prepare_tokenizer(self.tokenizer, corpora=held, root=self.root, seed=seed)
        if corpora:
            raise ValueError("a dataset of type corpus needs a tokenizer: set `data.tokenizer`")
        for dataset in self.datasets.values():
            if isinstance(dataset, PreparedDatasetConfig):
                read_card(dataset.path)
                return load_tokenizer(Path(dataset.path) / TOKENIZER_FOLDER)
        return None

    def _folders(
        self,
        tokenizer: Tokenizer | None,
        known: Mapping[str, Path],
        on_progress: Progress | None,
    ) -> dict[str, Path]:
        """The folders of the datasets that have one, prepared."""
        folders: dict[str, Path] = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, PreparedDatasetConfig):
                folders[name] = Path(dataset.path)
                _check_tokenizer(name, folders[name], tokenizer)
        for name, dataset in self.datasets.items():
            if isinstance(dataset, CorpusDatasetConfig):
                assert tokenizer is not None
                if _is_made_with(tokenizer, known.get(name)):
                    folders[name] = known[name]
                    continue
                folders[name] = tokenise_corpus(
                    dataset.corpus,
                    tokenizer=tokenizer,
                    root=Path(self.root),
                    name=name,
                    validation_every=dataset.validation_every,
                    workers=self.workers,
                    on_progress=on_progress,
                )
        return folders


@dataclass(frozen=True)
class Data:
    """The opened datasets of a run; every stream has the same vocabulary and delimiter."""

    config: DataConfig
    tokenizer: Tokenizer | None
    """None when there are only `.bin` and synthetic datasets and no tokenizer was given."""
    folders: dict[str, Path]
    """Folders of the tokenised datasets, by name."""
    streams: dict[str, dict[str, TokenStream]]
    """Streams by name of the dataset and split."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._any_stream().vocab_size

    @property
    def delimiter_id(self) -> int:
        """The id that opens each document."""
        return self._any_stream().delimiter_id

    @property
    def training_streams(self) -> dict[str, tuple[TokenStream, float]]:
        """Stream and weight of each dataset trained on; ValueError if one has no train split."""
        weights = {name: dataset.weight for name, dataset in self.config.datasets.items()}
        for name, weight in weights.items():
            if weight and "train" not in self.streams[name]:
                raise ValueError(
                    f"dataset {name!r} is all held out, so there is nothing to train on; raise "
                    f"`data.datasets.{name}.validation_every`, or set its `weight` to 0"
                )
        return {name: (self.streams[name]["train"], w) for name, w in weights.items() if w}

    def train_loader(self, *, seed: int, rows: slice | None = None) -> TrainLoader:
        """The loader of the training mixture, for this host's rows of each global batch."""
        return TrainLoader(
            self.training_streams,
            sequence_length=self.config.sequence_length,
            global_batch_size=self.config.global_batch_size,
            seed=seed,
            rows=rows,
            shuffle=self.config.shuffle,
            prefetch=self.config.prefetch,
        )

    def validation_loaders(self, *, rows: slice | None = None) -> dict[str, ValidationLoader]:
        """The validation sets by name."""
        return {
            name: ValidationLoader(
                splits["validation"],
                name=name,
                sequence_length=self.config.sequence_length,
                global_batch_size=self.config.global_batch_size,
                rows=rows,
            )
            for name, splits in self.streams.items()
            if "validation" in splits
        }

    def _any_stream(self) -> TokenStream:
        return next(iter(next(iter(self.streams.values())).values()))


def open_stream(
    config: DatasetConfig, split: Literal["train", "validation"], *, folder: Path | None = None
) -> TokenStream:
    """One split of a dataset; `folder` is where a corpus has been prepared."""
    streams = _open_streams(config, folder)
    if split not in streams:
        raise ValueError(f"this dataset of type {config.type} has no {split} split")
    return streams[split]


def _open_streams(config: DatasetConfig, folder: Path | None) -> dict[str, TokenStream]:
    """Every split that a dataset has."""
    match config:
        case BinDatasetConfig():
            paths = {"train": config.train, "validation": config.validation}
            return {split: _bin(config, path) for split, path in paths.items() if path}
        case SyntheticDatasetConfig():
            return {
                "train": _synthetic(config, config.num_tokens, 2 * config.seed),
                "validation": _synthetic(config, config.validation_tokens, 2 * config.seed + 1),
            }
        case PreparedDatasetConfig():
            folder = Path(config.path)
    assert folder is not None
    return {split: PreparedStream(folder, split) for split in read_card(folder).splits}


def _bin(config: BinDatasetConfig, path: str) -> TokenStream:
    return BinStream(
        path,
        dtype=np.dtype(config.dtype),
        vocab_size=config.vocab_size,
        delimiter_id=config.delimiter_id,
    )


def _synthetic(config: SyntheticDatasetConfig, num_tokens: int, seed: int) -> TokenStream:
    return SyntheticStream(
        num_tokens=num_tokens,
        vocab_size=config.vocab_size,
        mean_document_tokens=config.mean_document_tokens,
        seed=seed,
    )


def _is_made_with(tokenizer: Tokenizer, folder: Path | None) -> bool:
    """Whether a complete dataset of this tokenizer is in `folder`."""
    if folder is None or not (folder / SIDECAR).is_file():
        return False
    return read_card(folder).tokenizer == tokenizer.fingerprint


def _check_tokenizer(name: str, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError when a dataset was made with another tokenizer."""
    card = read_card(folder)
    if tokenizer is not None and card.tokenizer != tokenizer.fingerprint:
        raise ValueError(
            f"dataset {name!r} in {folder} was made with another tokenizer "
            f"({card.tokenizer[:12]}, {card.vocab_size} tokens) than this run's "
            f"({tokenizer.fingerprint[:12]}, {tokenizer.vocab_size} tokens); change "
            f"`data.tokenizer`, or prepare the dataset again"
        )


def _check_vocabularies(
    tokenizer: Tokenizer | None, streams: dict[str, dict[str, TokenStream]]
) -> None:
    """Raises ValueError when datasets do not share one vocabulary and delimiter."""
    found = {name: next(iter(splits.values())) for name, splits in streams.items()}
    ids = {name: (stream.vocab_size, stream.delimiter_id) for name, stream in found.items()}
    if tokenizer is not None:
        ids["the tokenizer"] = (tokenizer.vocab_size, tokenizer.delimiter_id)
    if len(set(ids.values())) > 1:
        shown = "; ".join(f"{name}: {size} ids, delimiter {d}" for name, (size, d) in ids.items())
        raise ValueError(f"the datasets do not share one vocabulary: {shown}; change `data`")
