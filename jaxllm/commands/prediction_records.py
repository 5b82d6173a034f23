"""Records of an input, read and encoded a block ahead of the devices."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig
from jaxllm.data.example_table import Encoded, Table, table_of
from jaxllm.tasks import Task


class Block(NamedTuple):
    """Records that are answered together, and what the model reads of them.

    kept: the fields of each record that stand before its answer. digest: of all records of the
    input up to the last of these.
    """

    records: tuple[ExampleRecord, ...]
    table: Table
    kept: list[dict[str, Any]]
    digest: str


class PredictionRecords:
    """The records of a source in order, and a digest of those that were read so far."""

    def __init__(self, source: ExampleSourceConfig) -> None:
        self._records = iter(source.records())
        self._digest = hashlib.sha256()
        self.num_bytes = 0
        """About how much was read, by its texts."""

    @property
    def digest(self) -> str:
        """The sha256 of the fields of all records that were read, wherever they were read from."""
        return self._digest.hexdigest()

    def skip(self, count: int) -> None:
        """Read records that have their answers, as many of them as there are."""
        for _ in self._taken(count):
            pass

    def blocks(self, doing: Task, *, size: int, keep: Sequence[str]) -> Iterator[Block]:
        """What is left, a block encoded ahead while the device works on the one before.

        DatasetError, behind the last block without a fault, for a record that is none.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="encode") as executor:
            ahead = executor.submit(self._block, doing, size, keep)
            while (block := ahead.result()) is not None:
                ahead = executor.submit(self._block, doing, size, keep)
                yield block

    def _block(self, doing: Task, size: int, keep: Sequence[str]) -> Block | None:
        records = tuple(self._taken(size))
        if not records:
            return None
        table = table_of([_encoded(record, doing) for record in records])
        kept = [_kept(record, keep) for record in records]
        return Block(records, table, kept, self.digest)

    def _taken(self, count: int) -> Iterator[ExampleRecord]:
        for record in islice(self._records, count):
            # The fields may be bytes and dates too, which JSON has no form for.
            self._digest.update(repr(dict(record.fields)).encode("utf-8", "surrogatepass"))
            self.num_bytes += record.num_bytes
            yield record


def _encoded(record: ExampleRecord, doing: Task) -> Encoded:
    found = doing.dataset.encode(record, doing.tokenizer, is_labelled=False)
    if len(found) != 1:
        raise DatasetError("source", f"{record.where}: {len(found)} examples, not one")
    return found[0]


def _kept(record: ExampleRecord, keep: Sequence[str]) -> dict[str, Any]:
    """The fields that are copied. ValueError for one that is missing, or that no line can hold."""
    kept = {}
    for field in keep:
        if field not in record.fields:
            there = ", ".join(map(repr, record.fields))
            raise ValueError(f"--keep {field}: {record.where} has no such field (fields: {there})")
        kept[field] = record.fields[field]
        try:
            json.dumps(kept[field], ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"--keep {field}: {record.where} has there what a line of JSON cannot hold: {error}"
            ) from error
    return kept
