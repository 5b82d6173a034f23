"""A tokenised dataset on disk: TFDS metadata, our sidecar, the tokenizer, and the shards.

    NAME-FINGERPRINT/
      dataset_info.json  features.json        what `tfds.builder_from_directory` reads
      tokens.json                             the sidecar: `DatasetCard`
      tokenizer/                              what `load_tokenizer` reads
      NAME-train.array_record-00000-of-00002  the shards

A split is one stream of tokens, `[delimiter document]* delimiter`: the closing delimiter is
there so that the end of the last document is scored like any other. The stream is cut into
records; the last one is filled up with delimiters that `tokens` does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from jaxllm.data.missing import MissingData
from jaxllm.data.records import FEATURE, RECORD_TOKENS, record_prefix, shard_lengths, shard_name
from jaxllm.data.remote_files import exists, folder_sizes, read_file
from jaxllm.data.whole_files import filled
from jaxllm.schema import Config
from jaxllm.storage import as_path, is_remote, text_of

SIDECAR = "tokens.json"
TOKENIZER_FOLDER = "tokenizer"
FORMAT_VERSION = 1


class SplitCard(Config):
    """What one split holds."""

    documents: int
    """Number of documents."""
    tokens: int
    """Number of tokens of the stream, delimiters included."""
    raw_bytes: int
    """UTF-8 bytes of the documents' text, the denominator of bits per byte."""
    records: int
    """Number of ArrayRecord records."""
    last_record_tokens: int
    """Number of tokens in the last record; the rest of it is filling."""
    shard_records: int
    """Number of records in each shard but the last."""
    shards: tuple[str, ...]
    """File names of the shards, in order."""
    shard_bytes: tuple[int, ...]
    """Size of each shard's file in bytes."""


class SourceCard(Config):
    """One file that the dataset was made from."""

    file: str
    """Path of the file when the dataset was made."""
    sha256: str
    """Hash of its content."""


class DatasetCard(Config):
    """The sidecar of a tokenised dataset."""

    format_version: Literal[1] = 1
    """Version of this layout."""
    name: str
    """TFDS name of the dataset."""
    fingerprint: str
    """sha256 of everything that decides the tokens: content, tokenizer, held-out documents."""
    vocab_size: int
    """Number of ids of the tokenizer."""
    delimiter_id: int
    """The id that opens each document and ends the stream."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    dtype: Literal["uint16", "uint32"]
    """Type of an id on disk."""
    record_tokens: int = RECORD_TOKENS
    """Ids in a record."""
    validation_every: int
    """Every how many documents one is held out; 0 for none."""
    skipped: tuple[str, ...] = ()
    """Records that were no documents, skipped within the error budget."""
    sources: tuple[SourceCard, ...]
    """The files that the dataset was made from."""
    splits: dict[str, SplitCard] = Field(min_length=1)
    """The splits by name."""


def split_card(
    name: str, split: str, *, documents: int, tokens: int, raw_bytes: int, folder: Path
) -> SplitCard:
    """The card of a split whose shards are all written."""
    records = -(-tokens // RECORD_TOKENS)
    sizes = folder_sizes(folder)
    lengths = shard_lengths(records)
    shards = tuple(shard_name(name, split, i, len(lengths)) for i in range(len(lengths)))
    return SplitCard(
        documents=documents,
        tokens=tokens,
        raw_bytes=raw_bytes,
        records=records,
        last_record_tokens=tokens - (records - 1) * RECORD_TOKENS,
        shard_records=lengths[0],
        shards=shards,
        shard_bytes=tuple(sizes[shard] for shard in shards),
    )


def dataset_features(dtype: str) -> Any:
    """What TFDS knows of a record."""
    import tensorflow_datasets as tfds

    kind = np.dtype(dtype).type
    tokens = tfds.features.Tensor(shape=(RECORD_TOKENS,), dtype=kind, encoding="bytes")
    return tfds.features.FeaturesDict({FEATURE: tokens})


def write_metadata(folder: Path, card: DatasetCard) -> None:
    """Writes TFDS's metadata and, last, the sidecar."""
    import tensorflow_datasets as tfds

    features = dataset_features(card.dtype)
    zeros = np.zeros(RECORD_TOKENS, np.dtype(card.dtype))
    expected = record_prefix(zeros.nbytes) + zeros.tobytes()
    assert features.serialize_example({FEATURE: zeros}) == expected, "TFDS changed its format"
    with filled(folder, last=SIDECAR) as local, _names_for_tfds(local, card):
        tfds.folder_dataset.write_metadata(
            data_dir=str(local),
            features=features,
            split_infos=[_split_info(tfds, local, card, split) for split in card.splits],
            check_data=False,
            description=f"Tokens of {card.name}, in records of {RECORD_TOKENS}; see {SIDECAR}.",
        )
        (local / SIDECAR).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


@contextmanager
def _names_for_tfds(folder: Path, card: DatasetCard) -> Iterator[None]:
    """Within it the folder has files with the names of shards, of which TFDS takes the splits."""
    names = (split.shards[0] for split in card.splits.values())
    absent = [folder / name for name in names if not (folder / name).exists()]
    for path in absent:
        path.touch()
    yield
    for path in absent:
        path.unlink()


def _split_info(tfds: Any, folder: Path, card: DatasetCard, split: str) -> Any:
    record_bytes = RECORD_TOKENS * np.dtype(card.dtype).itemsize
    template = tfds.core.ShardedFileTemplate(
        data_dir=str(folder),
        dataset_name=card.name,
        split=split,
        filetype_suffix="array_record",
    )
    records = card.splits[split].records
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=shard_lengths(records),
        num_bytes=records * (record_bytes + len(record_prefix(record_bytes))),
        filename_template=template,
    )


def read_card(folder: Path | str) -> DatasetCard:
    """The sidecar of a dataset.

    Raises ValueError when the folder holds no complete dataset, MissingData when there is none.
    """
    path = as_path(folder) / SIDECAR
    if not exists(path):
        error = ValueError(
            f"{text_of(folder)} is no tokenised dataset: it has no {SIDECAR}; give the folder that "
            f"`jaxllm prepare` made"
        )
        raise error if not is_remote(folder) and Path(folder).exists() else MissingData(error)
    try:
        return DatasetCard.model_validate_json(read_file(path))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged or of another version: {error}") from error
