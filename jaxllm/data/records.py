"""The tokens of one split on disk: ArrayRecord shards of fixed records, as TFDS reads them.

A record is a serialised `tf.train.Example` with one feature, `tokens`: C ids, little-endian.
Because C is fixed, what stands before the ids is the same in every record, and the ids can be
taken out without parsing anything.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RECORD_TOKENS = 4096
SHARD_RECORDS = 1 << 13  # 2^25 tokens: 64 MiB in uint16

# One record a chunk for random access; uncompressed, because reading is then twice as fast.
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"
READER_BUFFER_BYTES = 32768

FEATURE = "tokens"


def record_prefix(record_bytes: int) -> bytes:
    """The protocol-buffer bytes in front of the ids: five nested length-delimited fields."""
    key = _field(1, len(FEATURE)) + FEATURE.encode()
    bytes_value = _field(1, record_bytes)
    bytes_list = _field(1, len(bytes_value) + record_bytes)
    feature = _field(2, len(bytes_list) + len(bytes_value) + record_bytes)
    entry = key + feature + bytes_list + bytes_value
    features = _field(1, len(entry) + record_bytes)
    return _field(1, len(features) + len(entry) + record_bytes) + features + entry


def _field(number: int, length: int) -> bytes:
    """Tag and length of a length-delimited field."""
    encoded = bytearray([number << 3 | 2])
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def shard_name(dataset: str, split: str, shard: int, shards: int) -> str:
    """TFDS's file name for a shard."""
    return f"{dataset}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def shard_lengths(records: int) -> list[int]:
    """Records in each shard: all full but the last."""
    return [min(SHARD_RECORDS, records - first) for first in range(0, records, SHARD_RECORDS)]


def write_shard(path: Path, blocks: Iterator[np.ndarray]) -> None:
    """Writes one record for each block of `RECORD_TOKENS` ids. Raises OSError on a full disk."""
    write_records(path, map(_record, blocks))


def _record(block: np.ndarray) -> bytes:
    assert block.shape == (RECORD_TOKENS,), block.shape
    return record_prefix(block.nbytes) + block.tobytes()


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes serialised records into one shard. Raises OSError on a full disk."""
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # the library's only kind of error
        raise OSError(f"{path} could not be written: {error}") from error


class ShardReader:
    """Random access to the records of one shard; safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        size: int,
        records: int,
        record_tokens: int,
        dtype: np.dtype,
        fetch: Callable[[], None] | None = None,
    ) -> None:
        """The file is opened when it is first read; raises ValueError when its size is wrong.

        fetch: brings the file to `path`, for one that is elsewhere until then.
        """
        self._path = path
        self._fetch = fetch
        self._records = records
        self._dtype = dtype
        self._prefix = record_prefix(record_tokens * dtype.itemsize)
        self._record_bytes = len(self._prefix) + record_tokens * dtype.itemsize
        self._reader: Any = None
        self._opening = threading.Lock()
        if fetch is not None:
            return
        if not path.is_file():
            raise self._damaged("the file is missing")
        if (found := path.stat().st_size) != size:
            raise self._damaged(f"it has {found} bytes instead of {size}")

    def read(self, record: int) -> np.ndarray:
        """The ids of one record, shape (record_tokens,), a read-only view of its bytes.

        Raises ValueError, naming the file, when the checksum of the record does not hold.
        """
        try:
            data = (self._reader or self._open()).read([record])[0]
        except RuntimeError as error:  # the library's only kind of error
            raise self._damaged(f"record {record}: {error}") from error
        if len(data) != self._record_bytes or not data.startswith(self._prefix):
            raise self._damaged(f"record {record} is not of {self._record_bytes} bytes")
        return np.frombuffer(data, self._dtype, offset=len(self._prefix))

    def _open(self) -> Any:
        """The library's reader, opened once."""
        from array_record.python.array_record_module import ArrayRecordReader

        with self._opening:
            if self._reader is None:
                if self._fetch is not None:
                    self._fetch()
                reader = ArrayRecordReader(
                    str(self._path),
                    options=READER_OPTIONS,
                    file_reader_buffer_size=READER_BUFFER_BYTES,
                )
                if (found := reader.num_records()) != self._records:
                    raise self._damaged(f"it holds {found} records instead of {self._records}")
                self._reader = reader
            return self._reader

    def _damaged(self, reason: str) -> ValueError:
        cure = "delete the dataset's folder and prepare it again, or fetch it anew"
        if self._fetch is not None:
            cure = "delete it, and it is fetched anew"
        return ValueError(f"shard {self._path} is truncated or corrupt: {reason}; {cure}")
