"""The data of a run: which datasets, in which mixture, with which tokenizer, cut how."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from jaxllm.data.corpus import SplitName
from jaxllm.data.dataset_error import of_dataset
from jaxllm.data.dataset_folder import SIDECAR, read_card
from jaxllm.data.datasets import (
    CorpusDatasetConfig,
    DatasetConfig,
    PreparedDatasetConfig,
    open_streams,
)
from jaxllm.data.example_folder import completed, holds, open_examples, prepare_examples
from jaxllm.data.examples import ExampleRows, ExamplesConfig
from jaxllm.data.missing import Missing, MissingData
from jaxllm.data.opened import Data
from jaxllm.data.prepare import Progress, tokenise_corpus
from jaxllm.data.remote_files import exists
from jaxllm.data.shard_cache import tokenizer_folder
from jaxllm.data.streams import TokenStream
from jaxllm.data.tokenizer import ByteTokenizer, Tokenizer, TokenizerConfig, load_tokenizer
from jaxllm.data.tokenizer_training import Held, prepare_tokenizer
from jaxllm.schema import Config
from jaxllm.storage import as_path


class DataConfig(Config):
    """The data of a run."""

    sequence_length: int = Field(gt=0)
    """Number of tokens in a row."""
    global_batch_size: int = Field(gt=0)
    """Number of rows in a step, over all hosts."""
    datasets: dict[str, DatasetConfig] = Field(default_factory=dict)
    """Datasets by name; each one's validation split is evaluated under that name."""
    tokenizer: TokenizerConfig | None = None
    """Tokenizer of the texts; without one, that of the prepared datasets, or of the published model
    that init_from names."""
    root: str = "data"
    """Folder where tokenised datasets and trained tokenizers are kept, local or in gs://."""
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
        beam: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> Data:
        """Prepares what is missing and opens everything; see `Data`.

        What only a dataset tells, as the names of its classes, stands in the config of the result.

        `tokenizer` is one that exists already, as that of a trained model; by default it is
        made as the config says. `folders` are tokenised datasets that a run used before, by
        name: a corpus that has one of this tokenizer is opened from there, and its raw text is
        not looked at. Only a tokenizer that is not given may need the text then. `beam` are the
        options of an Apache Beam pipeline that tokenises in place of processes of this machine.

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
        whole = self._completed(folders or {})
        if whole != self:
            return whole.build(
                seed=seed,
                tokenizer=tokenizer,
                folders=folders,
                beam=beam,
                on_progress=on_progress,
            )
        found = self._folders(tokenizer, folders or {}, missing, beam=beam, on_progress=on_progress)
        streams = self._streams(found, missing)
        examples = self._examples(found, tokenizer)
        _check_vocabularies(tokenizer, streams)
        missing.tell()
        return Data(
            config=self, tokenizer=tokenizer, folders=found, streams=streams, examples=examples
        )

    def _completed(self, folders: Mapping[str, Path]) -> Self:
        """With what the datasets themselves tell, or a folder that was made of one before."""
        whole: dict[str, Any] = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, ExamplesConfig) and dataset.unknown:
                with of_dataset(name):
                    known = folders.get(name)
                    whole[name] = completed(dataset, None if known is None else as_path(known))
        return self.model_copy(update={"datasets": {**self.datasets, **whole}})

    def _folders(
        self,
        tokenizer: Tokenizer | None,
        folders: Mapping[str, Path],
        missing: Missing,
        *,
        beam: Sequence[str] | None,
        on_progress: Progress | None,
    ) -> dict[str, Path]:
        """The folders of tokenised datasets by name; a corpus is prepared where it has none.

        Corpora whose tokenizer is missing are left out.
        """
        found: dict[str, Path] = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, PreparedDatasetConfig):
                with missing.told_last():
                    folder = as_path(dataset.path)
                    _check_tokenizer(name, folder, tokenizer)
                    found[name] = folder
        for name, dataset in self.datasets.items():
            if isinstance(dataset, CorpusDatasetConfig) and tokenizer is not None:
                known = folders.get(name)
                if known is not None and _holds(known, dataset, tokenizer):
                    found[name] = as_path(known)
                    continue
                with missing.told_last():
                    found[name] = self._tokenise(
                        name, dataset, tokenizer, beam=beam, on_progress=on_progress
                    )
            elif isinstance(dataset, ExamplesConfig) and tokenizer is not None:
                known = folders.get(name)
                with missing.told_last(), of_dataset(name):
                    if known is not None and holds(known, dataset, tokenizer):
                        found[name] = as_path(known)
                        continue
                    found[name] = prepare_examples(
                        dataset,
                        tokenizer=tokenizer,
                        root=as_path(self.root),
                        name=name,
                        on_progress=on_progress,
                    )
        return found

    def _examples(
        self, folders: Mapping[str, Path], tokenizer: Tokenizer | None
    ) -> dict[str, dict[SplitName, ExampleRows]]:
        """Rows by name and split of every dataset of examples that has a folder."""
        found: dict[str, dict[SplitName, ExampleRows]] = {}
        for name, dataset in self.datasets.items():
            if not isinstance(dataset, ExamplesConfig) or name not in folders:
                continue
            assert tokenizer is not None
            with of_dataset(name):
                found[name] = {
                    split: dataset.rows(table, self.sequence_length, tokenizer=tokenizer)
                    for split, table in open_examples(folders[name]).items()
                }
        return found

    def _streams(
        self, folders: Mapping[str, Path], missing: Missing
    ) -> dict[str, dict[str, TokenStream]]:
        """Streams by name and split of every dataset that needs no folder, or has one."""
        streams = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, ExamplesConfig):
                continue
            needs_folder = isinstance(dataset, CorpusDatasetConfig | PreparedDatasetConfig)
            if name in folders or not needs_folder:
                with missing.told_last(), of_dataset(name):
                    streams[name] = open_streams(dataset, folder=folders.get(name))
        return streams

    def _tokenizer(self, seed: int) -> Tokenizer | None:
        """The configured tokenizer, or that of the prepared datasets, or None."""
        corpora: dict[str, Held] = {}
        for name, dataset in self.datasets.items():
            if isinstance(dataset, CorpusDatasetConfig):
                corpora[name] = (dataset.corpus, dataset.validation_every)
            elif isinstance(dataset, ExamplesConfig) and dataset.has_text:
                corpora[name] = (dataset, dataset.validation_every)
        if self.tokenizer is not None:
            return prepare_tokenizer(self.tokenizer, corpora=corpora, root=self.root, seed=seed)
        for name in corpora:
            kind = self.datasets[name].type
            raise ValueError(f"a dataset of type {kind} needs a tokenizer: set `data.tokenizer`")
        if any(isinstance(dataset, ExamplesConfig) for dataset in self.datasets.values()):
            return ByteTokenizer()  # it needs nothing, and is asked nothing
        for name, dataset in self.datasets.items():
            if isinstance(dataset, PreparedDatasetConfig):
                with of_dataset(name):
                    read_card(dataset.path)
                    return load_tokenizer(tokenizer_folder(dataset.path))
        return None

    def _tokenise(
        self,
        name: str,
        dataset: CorpusDatasetConfig,
        tokenizer: Tokenizer,
        *,
        beam: Sequence[str] | None,
        on_progress: Progress | None,
    ) -> Path:
        """The folder of a corpus, prepared."""
        with of_dataset(name):
            return tokenise_corpus(
                dataset.corpus,
                tokenizer=tokenizer,
                root=as_path(self.root),
                name=name,
                validation_every=dataset.validation_every,
                workers=self.workers,
                beam=beam,
                on_progress=on_progress,
            )


def _holds(folder: Path, dataset: CorpusDatasetConfig, tokenizer: Tokenizer) -> bool:
    """Whether a folder is a complete dataset of this tokenizer, with these documents held out."""
    if not exists(as_path(folder) / SIDECAR):
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
