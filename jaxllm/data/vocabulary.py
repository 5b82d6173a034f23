"""How many ids a data config has, and of what kinds, where that is known without its data."""

from pathlib import Path

from jaxllm.data.dataset_folder import SIDECAR, read_card
from jaxllm.data.datasets import BinDatasetConfig, PreparedDatasetConfig, SyntheticDatasetConfig
from jaxllm.data.mixture import DataConfig
from jaxllm.data.sentence_pieces import SentencePieceTokenizerConfig
from jaxllm.data.shard_cache import tokenizer_folder
from jaxllm.data.token_kinds import TokenKinds
from jaxllm.data.tokenizer import (
    ByteTokenizerConfig,
    HuggingFaceTokenizerConfig,
    load_tokenizer,
)
from jaxllm.package_paths import located
from jaxllm.storage import is_remote


def known_vocab_size(config: DataConfig) -> int | None:
    """The number of ids of the config's tokenizer or datasets; None if it takes the data to say.

    A bucket is not asked: who compiles for a pod on a laptop may have no way to it.
    """
    match config.tokenizer:
        case ByteTokenizerConfig():
            return config.tokenizer.build().vocab_size
        case SentencePieceTokenizerConfig(vocab_size=int(size)):
            return size
        case HuggingFaceTokenizerConfig(path=path) if located(path).exists():
            return config.tokenizer.build().vocab_size
    for dataset in config.datasets.values():
        match dataset:
            case BinDatasetConfig() | SyntheticDatasetConfig():
                return dataset.vocab_size
            case PreparedDatasetConfig(path=folder) if is_remote(folder):
                continue
            case PreparedDatasetConfig(path=folder) if (Path(folder) / SIDECAR).is_file():
                return read_card(folder).vocab_size
    return None


def known_kinds(config: DataConfig) -> TokenKinds:
    """The kinds of tokens of a published tokenizer that is there, or of a dataset's own.

    Of others, none is special.
    """
    match config.tokenizer:
        case HuggingFaceTokenizerConfig(path=path) if located(path).exists():
            return config.tokenizer.build().kinds()
    for dataset in config.datasets.values() if config.tokenizer is None else ():
        match dataset:
            case PreparedDatasetConfig(path=folder) if is_remote(folder):
                continue
            case PreparedDatasetConfig(path=folder) if (Path(folder) / SIDECAR).is_file():
                return load_tokenizer(tokenizer_folder(folder)).kinds()
    return TokenKinds(())
