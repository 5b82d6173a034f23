"""The kinds of dataset: the config of each, and the streams of its splits."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from jaxllm.data.captions import CaptionsConfig
from jaxllm.data.chats import ChatsConfig
from jaxllm.data.corpus import CorpusConfig, SplitName
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.dataset_folder import read_card
from jaxllm.data.dataset_weight import Weighted
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.missing import Missing, MissingData
from jaxllm.data.pictures import PicturesConfig
from jaxllm.data.questions import QuestionsConfig
from jaxllm.data.streams import BinStream, PreparedStream, SyntheticStream, TokenStream
from jaxllm.data.tagged_texts import TaggedTextsConfig
from jaxllm.data.text_pairs import TextPairsConfig
from jaxllm.data.tfds_texts import TfdsTexts, whole_form
from jaxllm.data.translations import TranslationsConfig
from jaxllm.storage import as_path, is_remote

SYNTHETIC_VALIDATION_TOKENS = 1 << 16


class CorpusDatasetConfig(Weighted):
    """Raw text, tokenised when it is first needed."""

    type: Literal["corpus"] = "corpus"
    """Kind of dataset: raw text."""
    corpus: CorpusConfig
    """Where the text comes from."""
    validation_every: int = Field(default=20, ge=0)
    """Every how many documents one is held out for validation; 0 for none."""


class PreparedDatasetConfig(Weighted):
    """A dataset that was tokenised before."""

    type: Literal["prepared"] = "prepared"
    """Kind of dataset: an existing folder of tokens."""
    path: str
    """Folder of the dataset, local or in gs://, the one that holds tokens.json."""


class BinDatasetConfig(Weighted):
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


class SyntheticDatasetConfig(Weighted):
    """Pseudo-random tokens, for benchmarks."""

    type: Literal["synthetic"] = "synthetic"
    """Kind of dataset: pseudo-random tokens."""
    num_tokens: int = Field(default=1 << 30, gt=1)
    """Number of training tokens."""
    vocab_size: int = Field(default=32768, gt=1, le=1 << 31)
    """Number of ids; 0 is the delimiter."""
    mean_document_tokens: int = Field(default=512, gt=1)
    """Mean length of a document in tokens."""


StreamDatasetConfig = (
    CorpusDatasetConfig | PreparedDatasetConfig | BinDatasetConfig | SyntheticDatasetConfig
)
_LongForm = Annotated[
    CorpusDatasetConfig
    | PreparedDatasetConfig
    | BinDatasetConfig
    | SyntheticDatasetConfig
    | LabelledTextsConfig
    | PicturesConfig
    | TextPairsConfig
    | CaptionsConfig
    | TranslationsConfig
    | ChatsConfig
    | TaggedTextsConfig
    | QuestionsConfig,
    Field(discriminator="type"),
]
DatasetConfig = Annotated[
    _LongForm, BeforeValidator(whole_form, json_schema_input_type=_LongForm | TfdsTexts)
]


def open_stream(
    config: StreamDatasetConfig, split: SplitName, *, folder: Path | None = None
) -> TokenStream:
    """One split of a dataset; `folder` is where a corpus has been prepared."""
    streams = open_streams(config, folder=folder)
    if split not in streams:
        raise ValueError(f"this dataset of type {config.type} has no {split} split")
    return streams[split]


def open_streams(config: StreamDatasetConfig, *, folder: Path | None) -> dict[str, TokenStream]:
    """Every split that a dataset has; `folder` is where a corpus has been prepared.

    Raises ValueError for files that are damaged, MissingData for those that are not there.
    """
    match config:
        case BinDatasetConfig():
            return _bins(config)
        case SyntheticDatasetConfig():
            return {
                "train": _synthetic(config, config.num_tokens, seed=0),
                "validation": _synthetic(config, SYNTHETIC_VALIDATION_TOKENS, seed=1),
            }
        case PreparedDatasetConfig():
            folder = as_path(config.path)
    assert folder is not None
    return {split: PreparedStream(folder, split) for split in read_card(folder).splits}


def _bins(config: BinDatasetConfig) -> dict[str, TokenStream]:
    streams, missing = {}, Missing()
    for split, path in (("train", config.train), ("validation", config.validation)):
        if path:
            with missing.told_last():
                streams[split] = _bin(config, split, path)
    missing.tell()
    return streams


def _bin(config: BinDatasetConfig, key: str, path: str) -> TokenStream:
    if is_remote(path):
        raise DatasetError(
            key, f"{path} cannot be memory-mapped; copy it to this machine and give that file"
        )
    if not Path(path).expanduser().exists():
        raise MissingData(DatasetError(key, f"there is no token file {path}"))
    return BinStream(
        path,
        dtype=np.dtype(config.dtype),
        vocab_size=config.vocab_size,
        delimiter_id=config.delimiter_id,
    )


def _synthetic(config: SyntheticDatasetConfig, num_tokens: int, *, seed: int) -> TokenStream:
    return SyntheticStream(
        num_tokens=num_tokens,
        vocab_size=config.vocab_size,
        mean_document_tokens=config.mean_document_tokens,
        seed=seed,
    )
