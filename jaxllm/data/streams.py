"""Streams of token ids with random access: prepared datasets, `.bin` files, synthetic ones."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxllm.containment import contained
from jaxllm.data.dataset_folder import DatasetCard, read_card
from jaxllm.data.records import ShardReader
from jaxllm.data.shard_cache import ShardCache
from jaxllm.storage import as_path, is_remote


class TokenStream(Protocol):
    """One long sequence of ids in [0, vocab_size); documents open with `delimiter_id`."""

    num_tokens: int
    raw_bytes: int | None
    """UTF-8 bytes of the text, None where it is not known."""
    vocab_size: int
    delimiter_id: int
    fingerprint: str
    """Changes when the tokens do."""

    def read_rows(self, starts: Sequence[int], length: int) -> np.ndarray:
        """The ids [start, start + length) for each start, int32, shape (len(starts), length).

        Raises ValueError for an id outside the vocabulary and for a damaged file, both named.
        """


def read(stream: TokenStream, start: int, stop: int) -> np.ndarray:
    """The ids [start, stop) of a stream, int32, shape (stop - start,)."""
    return stream.read_rows([start], stop - start)[0]


class PreparedStream:
    """See `TokenStream`: one split of a dataset that `prepare_dataset` made.

    Shards in a bucket are fetched when they are first read, those of one call together.
    """

    def __init__(self, folder: Path | str, split: str) -> None:
        """Raises ValueError when the split is missing or one of its shards is damaged."""
        self._cache = ShardCache(as_path(folder)) if is_remote(folder) else None
        card = read_card(folder) if self._cache is None else self._cache.card
        if split not in card.splits:
            raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(card.splits)}")
        self._folder = Path(folder) if self._cache is None else self._cache.folder
        self._split = card.splits[split]
        self._record_tokens = card.record_tokens
        self._readers = _open_shards(self._folder, card, split, cache=self._cache)
        self.num_tokens = self._split.tokens
        self.raw_bytes: int | None = self._split.raw_bytes
        self.vocab_size = card.vocab_size
        self.delimiter_id = card.delimiter_id
        self.fingerprint = f"{card.fingerprint}/{split}"

    def read_rows(self, starts: Sequence[int], length: int) -> np.ndarray:
        rows = np.empty((len(starts), length), np.int32)
        readers, record_tokens = self._readers, self._record_tokens
        shard_records = self._split.shard_records
        if self._cache is not None:
            self._fetch(self._cache, starts, length)
        for row, start in zip(rows, starts, strict=True):
            assert 0 <= start <= self.num_tokens - length, (start, length)
            record, offset = divmod(start, record_tokens)
            filled = 0
            while filled < length:
                shard, in_shard = divmod(record, shard_records)
                ids = readers[shard].read(in_shard)
                stop = min(length, filled + record_tokens - offset)
                row[filled:stop] = ids[offset : offset + stop - filled]
                filled, offset, record = stop, 0, record + 1
        # As uint32, so that an id that does not fit int32 is not a small negative one.
        if rows.view(np.uint32).max(initial=0) >= self.vocab_size:
            raise self._outside(rows, starts)
        return rows

    def _fetch(self, cache: ShardCache, starts: Sequence[int], length: int) -> None:
        """Brings the shards here that hold rows."""
        shard_tokens = self._split.shard_records * self._record_tokens
        wanted = {
            shard
            for start in starts
            for shard in range(start // shard_tokens, (start + length - 1) // shard_tokens + 1)
        }
        sizes = self._split.shard_bytes
        cache.fetch((self._split.shards[shard], sizes[shard]) for shard in sorted(wanted))

    def _outside(self, rows: np.ndarray, starts: Sequence[int]) -> ValueError:
        row, column = np.argwhere(rows.view(np.uint32) >= self.vocab_size)[0]
        record, offset = divmod(starts[row] + int(column), self._record_tokens)
        shard, in_shard = divmod(record, self._split.shard_records)
        path = self._folder / self._split.shards[shard]
        return ValueError(
            f"token id {rows[row, column]} in shard {path}, record {in_shard}, offset {offset} is "
            f"outside the vocabulary of {self.vocab_size}; the dataset does not belong to its "
            f"tokenizer: prepare it again"
        )


def _open_shards(
    folder: Path, card: DatasetCard, split: str, *, cache: ShardCache | None
) -> list[ShardReader]:
    """A reader for each shard. ValueError for a card that names files outside of the folder.

    cache: what fetches them, where the folder is that of a dataset in a bucket.
    """
    found = card.splits[split]
    if cache is not None:
        cache.check(split)
    readers, records = [], found.records
    for name, size in zip(found.shards, found.shard_bytes, strict=True):
        in_shard = min(found.shard_records, records)
        reader = ShardReader(
            contained(folder, name),
            size=size,
            records=in_shard,
            record_tokens=card.record_tokens,
            dtype=np.dtype(card.dtype),
            fetch=None if cache is None else partial(cache.fetch, [(name, size)]),
        )
        readers.append(reader)
        records -= in_shard
    return readers


class BinStream:
    """See `TokenStream`: a memory-mapped file of ids without any header."""

    raw_bytes: int | None = None

    def __init__(
        self, path: Path | str, *, dtype: np.dtype, vocab_size: int, delimiter_id: int
    ) -> None:
        """Raises ValueError when the file is missing, empty or not a whole number of ids."""
        self._path = Path(path).expanduser()
        if not self._path.is_file():
            raise ValueError(f"there is no token file {self._path}; change the path")
        size = self._path.stat().st_size
        if size == 0 or size % dtype.itemsize:
            raise ValueError(
                f"token file {self._path} is empty or truncated: {size} bytes are no whole "
                f"number of {dtype.name} ids"
            )
        self._ids = np.memmap(self._path, dtype, mode="r")
        self.num_tokens = len(self._ids)
        self.vocab_size = vocab_size
        self.delimiter_id = delimiter_id
        self.fingerprint = _file_fingerprint(self._path, size)

    def read_rows(self, starts: Sequence[int], length: int) -> np.ndarray:
        rows = np.empty((len(starts), length), np.int32)
        for row, start in zip(rows, starts, strict=True):
            ids = self._ids[start : start + length]
            # Compared before the cast to int32, where a large uint32 would turn negative.
            if ids.max(initial=0) >= self.vocab_size or ids.min(initial=0) < 0:
                raise self._outside(ids, start)
            row[:] = ids
        return rows

    def _outside(self, ids: np.ndarray, start: int) -> ValueError:
        offset = int(np.flatnonzero((ids >= self.vocab_size) | (ids < 0))[0])
        return ValueError(
            f"token id {ids[offset]} in {self._path} at offset {start + offset} is outside the "
            f"vocabulary of {self.vocab_size}; change the dataset's vocab_size or dtype"
        )


def _file_fingerprint(path: Path, size: int) -> str:
    """The size of a file and the sha256 of its ends: the whole would take minutes to read."""
    ends = 1 << 20
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(ends))
        file.seek(max(0, size - ends))
        digest.update(file.read(ends))
    return f"{size}:{digest.hexdigest()}"


class SyntheticStream:
    """See `TokenStream`: pseudo-random ids, each a hash of its position; nothing is stored.

    The delimiter is id 0, and documents have a geometric length of the given mean.
    """

    raw_bytes: int | None = None
    delimiter_id = 0

    def __init__(
        self, *, num_tokens: int, vocab_size: int, mean_document_tokens: int, seed: int
    ) -> None:
        self.num_tokens = num_tokens
        self.vocab_size = vocab_size
        self.fingerprint = f"synthetic:{num_tokens}:{vocab_size}:{mean_document_tokens}:{seed}"
        self._delimiter_below = np.uint64((1 << 32) // mean_document_tokens)
        self._salt = np.uint64(int.from_bytes(hashlib.sha256(b"%d" % seed).digest()[:8]))

    def read_rows(self, starts: Sequence[int], length: int) -> np.ndarray:
        offsets: np.ndarray = np.arange(length, dtype=np.uint64)
        positions: np.ndarray = np.asarray(starts, np.uint64)[:, None] + offsets
        hashed = _mix(positions ^ self._salt)
        # High bits choose the id, low bits whether a document begins here.
        ids = 1 + (hashed >> np.uint64(32)) % np.uint64(self.vocab_size - 1)
        opens = (hashed & np.uint64(0xFFFFFFFF)) < self._delimiter_below
        return np.where(opens, np.uint64(0), ids).astype(np.int32)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), modulo 2^64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
