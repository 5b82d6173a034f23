"""The data of a run: which datasets, in which mixture, with which tokenizer, cut how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from jaxllm.data.batch import Arrange, unchanged
from jaxllm.data.dataset_error import of_dataset
from jaxllm.data.dataset_folder import SIDECAR, TOKENIZER_FOLDER, read_card
from jaxllm.data.datasets import (
    CorpusDatasetConfig,
    DatasetConfig,
    PreparedDatasetConfig,
    open_streams,
)
from jaxllm.data.loader import TrainLoader, ValidationLoader
from jaxllm.data.missing import Missing, MissingData
from jaxllm.data.prepare import Progress, tokenise_corpus
from jaxllm.data.rows import TokenRows
from jaxllm.data.streams import TokenStream
from jaxllm.data.token_kinds import TokenKinds
from jaxllm.data.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer
from jaxllm.data.tokenizer_training import prepare_tokenizer
from jaxllm.schema import Config


class DataConfig(Config):
    """The data of a run."""

    sequence_length: int = Field(gt=0)
    """Number of tokens in a row."""
    global_batch_size: int = Field(gt=0)
    """Number of rows in a step, over all hosts."""
    datasets: dict[str, DatasetConfig] = Field(default_factory=dict)
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
        if self.datasets and not any(dataset.weight for dataset in self.datasets.values()):
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
        made as the config says. `folders` are tokenised datasets that a run used before, by
        name: a corpus that has one of this tokenizer is opened from there, and its raw text is
        not looked at. Only a tokenizer that is not given may need the text then.

        Raises ValueError for data that is wrong; where that which is there is not, MissingData for
        files that are not there.
        """
        if not self.datasets:
            raise MissingData(
                ValueError(
                    "data.datasets is empty; give what to train on, for example "
                    "data.datasets.text.type=corpus data.datasets.text.corpus.type=text "
                    "data.datasets.text.corpus.paths=[FILE]"
                )
            )
        missing = Missing()
        with missing.told_last():
            tokenizer = tokenizer or self._tokenizer(seed)
        found = self._folders(tokenizer, folders or {}, on_progress, missing)
        streams = self._streams(found, missing)
        _check_vocabularies(tokenizer, streams)
        missing.tell()
        return Data(config=self, tokenizer=tokenizer, folders=found, streams=streams)

    def _folders(
        self,
        tokenizer: Tokenizer | None,
        folders: Mapping[str, Path],
        on_progress: Progress | None,
        missing: Missing,
    ) -> dict[str, Path]:
        """The folders of tokenised datasets by name; a corpus is prepared where it has none.

        Corpora whose tokenizer is missing are left out.
        """
        found: dict[str, Path] = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, PreparedDatasetConfig):
                with missing.told_last():
                    _check_tokenizer(name, Path(dataset.path), tokenizer)
                    found[name] = Path(dataset.path)
        for name, dataset in self.datasets.items():
            if isinstance(dataset, CorpusDatasetConfig) and tokenizer is not None:
                known = folders.get(name)
                if known is not None and _holds(known, dataset, tokenizer):
                    found[name] = known
                    continue
                with missing.told_last():
                    found[name] = self._tokenise(name, dataset, tokenizer, on_progress)
        return found

    def _streams(
        self, folders: Mapping[str, Path], missing: Missing
    ) -> dict[str, dict[str, TokenStream]]:
        """Streams by name and split of every dataset that needs no folder, or has one."""
        streams = {}
        for name, dataset in self.datasets.items():
            needs_folder = isinstance(dataset, CorpusDatasetConfig | PreparedDatasetConfig)
            if name in folders or not needs_folder:
                with missing.told_last(), of_dataset(name):
                    streams[name] = open_streams(dataset, folder=folders.get(name))
        return streams

    def _tokenizer(self, seed: int) -> Tokenizer | None:
        """The configured tokenizer, or that of the prepared datasets, or None."""
        corpora = {
            name: (dataset.corpus, dataset.validation_every)
            for name, dataset in self.datasets.items()
            if isinstance(dataset, CorpusDatasetConfig)
        }
        if self.tokenizer is not None:
            return prepare_tokenizer(self.tokenizer, corpora=corpora, root=self.root, seed=seed)
        if corpora:
            raise ValueError("a dataset of type corpus needs a tokenizer: set `data.tokenizer`")
        for name, dataset in self.datasets.items():
            if isinstance(dataset, PreparedDatasetConfig):
                with of_dataset(name):
                    read_card(dataset.path)
                    return load_tokenizer(Path(dataset.path) / TOKENIZER_FOLDER)
        return None

    def _tokenise(
        self,
        name: str,
        dataset: CorpusDatasetConfig,
        tokenizer: Tokenizer,
        on_progress: Progress | None,
    ) -> Path:
        """The folder of a corpus, prepared."""
        with of_dataset(name):
            return tokenise_corpus(
                dataset.corpus,
                tokenizer=tokenizer,
                root=Path(self.root),
                name=name,
                validation_every=dataset.validation_every,
                workers=self.workers,
                on_progress=on_progress,
            )


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
    def kinds(self) -> TokenKinds:
        """Which ids are no text, as far as the tokenizer says, and which stand for what."""
        if self.tokenizer is None:
            return TokenKinds((self.delimiter_id,))
        return self.tokenizer.kinds()

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

    def train_loader(
        self,
        *,
        seed: int,
        rows: Sequence[int] | None = None,
        skipped: Sequence[int] = (),
        arrange: Arrange | None = None,
    ) -> TrainLoader:
        """The loader of the training mixture, for this host's rows of each global batch.

        skipped: numbers of batches that are left out. arrange: what an objective makes of rows.
        """
        length = self.config.sequence_length
        return TrainLoader(
            {
                name: (TokenRows(stream, length, name=name), weight)
                for name, (stream, weight) in self.training_streams.items()
            },
            sequence_length=length,
            global_batch_size=self.config.global_batch_size,
            seed=seed,
            rows=rows,
            shuffle=self.config.shuffle,
            prefetch=self.config.prefetch,
            skipped=skipped,
            arrange=arrange or unchanged,
        )

    def validation_loaders(
        self, *, rows: Sequence[int] | None = None, arrange: Arrange | None = None
    ) -> dict[str, ValidationLoader]:
        """The validation sets by name. arrange: what an objective makes of rows."""
        return {
            name: ValidationLoader(
                splits["validation"],
                name=name,
                sequence_length=self.config.sequence_length,
                global_batch_size=self.config.global_batch_size,
                rows=rows,
                arrange=arrange,
            )
            for name, splits in self.streams.items()
            if "validation" in splits
        }

    def _any_stream(self) -> TokenStream:
        return next(iter(next(iter(self.streams.values())).values()))


def _holds(folder: Path, dataset: CorpusDatasetConfig, tokenizer: Tokenizer) -> bool:
    """Whether a folder is a complete dataset of this tokenizer, with these documents held out."""
    if not (folder / SIDECAR).is_file():
        return False
    card = read_card(folder)
    made = (card.tokenizer, card.validation_every)
    return made == (tokenizer.fingerprint, dataset.validation_every)


def _check_tokenizer(name: str, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Raises ValueError when a dataset was made with another tokenizer."""
    with of_dataset(name):
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
        raise ValueError(
            f"the datasets do not share one vocabulary: {shown}; change `data.tokenizer`, or the "
            f"datasets in `data.datasets`"
        )
