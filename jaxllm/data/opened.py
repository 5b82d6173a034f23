"""The opened data of a run: its streams and rows, and the loaders of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxllm.data.batch import Arrange, unchanged
from jaxllm.data.corpus import SplitName
from jaxllm.data.examples import ExampleRows, ExamplesConfig
from jaxllm.data.loader import TrainLoader, ValidationLoader
from jaxllm.data.rows import RowSource, TokenRows
from jaxllm.data.streams import TokenStream
from jaxllm.data.token_kinds import TokenKinds
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.data.validation_rows import ValidationRows

if TYPE_CHECKING:
    from jaxllm.data.mixture import DataConfig


@dataclass(frozen=True)
class Data:
    """The opened datasets of a run; every stream has the same vocabulary and delimiter."""

    config: "DataConfig"
    tokenizer: Tokenizer | None
    """None when there are only `.bin` and synthetic datasets and no tokenizer was given."""
    folders: dict[str, Path]
    """Folders of the tokenised datasets, by name."""
    streams: dict[str, dict[str, TokenStream]]
    """Streams by name of the dataset and split."""
    examples: dict[str, dict[SplitName, ExampleRows]] = field(default_factory=dict)
    """Rows of labelled texts by name of the dataset and split."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._vocabulary.vocab_size

    @property
    def delimiter_id(self) -> int:
        """The id that opens each document."""
        return self._vocabulary.delimiter_id

    @property
    def kinds(self) -> TokenKinds:
        """Which ids are no text, as far as the tokenizer says, and which stand for what."""
        if self.tokenizer is None:
            return TokenKinds((self.delimiter_id,))
        return self.tokenizer.kinds()

    @property
    def has_validation(self) -> bool:
        """Whether any dataset has a validation split."""
        found: list[Mapping] = [*self.streams.values(), *self.examples.values()]
        return any("validation" in splits for splits in found)

    @property
    def training_streams(self) -> dict[str, tuple[TokenStream, float]]:
        """Stream and weight of each one trained on; ValueError if one has no train split."""
        return {
            name: (self.streams[name]["train"], weight)
            for name, weight in self._trained_on().items()
            if name in self.streams
        }

    @property
    def training_sources(self) -> dict[str, tuple[RowSource, float]]:
        """Rows and weight of each dataset trained on; ValueError if one has no train split."""
        length = self.config.sequence_length
        return {
            name: (
                self.examples[name]["train"]
                if name in self.examples
                else TokenRows(self.streams[name]["train"], length, name=name),
                weight,
            )
            for name, weight in self._trained_on().items()
        }

    def _trained_on(self) -> dict[str, float]:
        """The weight of each dataset that is trained on."""
        weights = {name: dataset.weight for name, dataset in self.config.datasets.items()}
        for name, weight in weights.items():
            splits: Mapping = self.streams.get(name) or self.examples[name]
            if weight and "train" not in splits:
                raise ValueError(
                    f"dataset {name!r} is all held out, so there is nothing to train on; raise "
                    f"`data.datasets.{name}.validation_every`, or set its `weight` to 0"
                )
        return {name: weight for name, weight in weights.items() if weight}

    def truncations(self) -> list[str]:
        """What is told of how examples fill rows, and of what these leave out: a sentence each."""
        told: list[str] = []
        for name, splits in self.examples.items():
            dataset = self.config.datasets[name]
            assert isinstance(dataset, ExamplesConfig)
            length = self.config.sequence_length
            told += dataset.told(list(splits.values()), name=name, length=length)
        return told

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
        return TrainLoader(
            self.training_sources,
            sequence_length=self.config.sequence_length,
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
    ) -> dict[str, ValidationLoader | ValidationRows]:
        """The validation sets by name. arrange: what an objective makes of rows."""
        found: dict[str, ValidationLoader | ValidationRows] = {}
        for name, splits in self.streams.items():
            if "validation" in splits:
                found[name] = ValidationLoader(
                    splits["validation"],
                    name=name,
                    sequence_length=self.config.sequence_length,
                    global_batch_size=self.config.global_batch_size,
                    rows=rows,
                    arrange=arrange,
                )
        for name, of_split in self.examples.items():
            if "validation" in of_split:
                found[name] = ValidationRows(
                    of_split["validation"],
                    name=name,
                    global_batch_size=self.config.global_batch_size,
                    rows=rows,
                    arrange=arrange,
                )
        return found

    @property
    def _vocabulary(self) -> "TokenStream | Tokenizer":
        """What knows the ids: any of the streams, else the tokenizer of the examples."""
        for splits in self.streams.values():
            return next(iter(splits.values()))
        assert self.tokenizer is not None
        return self.tokenizer
