"""Corpus -> tokenised TFDS dataset -> global batches."""

from jaxllm.data.batch import Batch
from jaxllm.data.corpus import CorpusConfig, read_documents
from jaxllm.data.datasets import DatasetConfig, open_stream
from jaxllm.data.inspection import RowSegment, decode_row, describe_dataset
from jaxllm.data.loader import TrainLoader, ValidationLoader
from jaxllm.data.missing import MissingData
from jaxllm.data.mixture import DataConfig
from jaxllm.data.opened import Data
from jaxllm.data.prepare import prepare_dataset
from jaxllm.data.section import DataSection
from jaxllm.data.streams import TokenStream
from jaxllm.data.tokenizer import Tokenizer, TokenizerConfig, load_tokenizer

__all__ = [
    "Batch",
    "CorpusConfig",
    "Data",
    "DataConfig",
    "DataSection",
    "DatasetConfig",
    "MissingData",
    "RowSegment",
    "TokenStream",
    "Tokenizer",
    "TokenizerConfig",
    "TrainLoader",
    "ValidationLoader",
    "decode_row",
    "describe_dataset",
    "load_tokenizer",
    "open_stream",
    "prepare_dataset",
    "read_documents",
]
