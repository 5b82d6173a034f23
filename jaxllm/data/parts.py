"""What a worker does in `prepare`: scan a source, tokenise a part, write a shard.

A part is tokenised into one file of ids for each split, and a JSON of counts that is written
last and marks the part as finished. Every file gets its name only when it is complete.
"""

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, get_args

import numpy as np

from jaxllm.data.corpus import CorpusConfig, Part, SplitName, read_part
from jaxllm.data.documents import BadRecord, Span
from jaxllm.data.records import RECORD_TOKENS, shard_lengths, shard_name, write_shard
from jaxllm.data.remote_files import fetch_folder, folder_sizes, in_threads, read_file, read_range
from jaxllm.data.tokenizer import Tokenizer, load_tokenizer, token_dtype
from jaxllm.data.whole_files import write_file, written
from jaxllm.schema import Config
from jaxllm.storage import as_path, is_remote

SPLITS: tuple[SplitName, ...] = get_args(SplitName)


@dataclass(frozen=True)
class ScanTask:
    """One source to cut into spans."""

    corpus: CorpusConfig
    source: str
    span_bytes: int


@dataclass(frozen=True)
class PartTask:
    """One part to tokenise into `folder`."""

    corpus: CorpusConfig
    part: Part
    index: int
    validation_every: int
    tokenizer: str
    folder: str


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: `pieces` are (file, first id, number of ids) to put end to end."""

    path: str
    split: SplitName
    first: int
    """Index of its first record within the split."""
    records: int
    pieces: tuple[tuple[str, int, int], ...]
    delimiter_id: int
    dtype: str


class SplitCounts(Config):
    """What a part, or a whole corpus, holds of one split."""

    documents: int = 0
    """Number of documents."""
    tokens: int = 0
    """Number of tokens, the opening delimiters included."""
    raw_bytes: int = 0
    """UTF-8 bytes of the text."""

    def plus(self, other: "SplitCounts") -> "SplitCounts":
        """The sum of both."""
        return SplitCounts(
            documents=self.documents + other.documents,
            tokens=self.tokens + other.tokens,
            raw_bytes=self.raw_bytes + other.raw_bytes,
        )


class PartResult(Config):
    """What became of a part."""

    splits: dict[SplitName, SplitCounts]
    """Counts for each split."""
    skipped: tuple[str, ...]
    """Bad records: where each stands and why it is none."""
    empty: int
    """Number of documents without text, which are left out."""


def scan_source(task: ScanTask) -> list[Span]:
    """The spans of one source."""
    return task.corpus.build().scan(task.source, task.span_bytes)


def part_file(folder: Path, index: int, kind: str) -> Path:
    """Where a part's ids of a split (`kind` is its name) or its counts (`json`) are."""
    return folder / f"part-{index:06d}.{kind}"


def finished_parts(folder: Path) -> dict[int, PartResult]:
    """The results of the parts that an earlier run finished, by the part's index."""
    names = [name for name in sorted(folder_sizes(folder)) if name.endswith(".json")]
    found = in_threads(lambda name: read_file(folder / name), names)
    results = map(PartResult.model_validate_json, found)
    return {_index(name): result for name, result in zip(names, results, strict=True)}


def any_finished(folder: Path) -> bool:
    """Whether an earlier run finished a part."""
    return any(name.endswith(".json") for name in folder_sizes(folder))


def _index(name: str) -> int:
    """The index of a part, of its file's name."""
    return int(name.removeprefix("part-").split(".")[0])


def encode_part(task: PartTask) -> PartResult:
    """Tokenises a part. Bad records beyond the corpus's error budget end it early."""
    folder = as_path(task.folder)
    counts = {split: SplitCounts() for split in SPLITS}
    skipped: list[str] = []
    empty = 0
    with ExitStack() as stack:
        paths = {split: part_file(folder, task.index, split) for split in SPLITS}
        files = {split: stack.enter_context(write_file(paths[split])) for split in SPLITS}
        tokenizer = _tokenizer(task.tokenizer)
        corpus = task.corpus.build()
        for split, record in read_part(corpus, task.part, validation_every=task.validation_every):
            if isinstance(record, BadRecord):
                skipped.append(str(record))
                if len(skipped) > task.corpus.error_budget:
                    break
            elif not record.text:
                empty += 1
            else:
                counts[split] = counts[split].plus(_write(files[split], record.text, tokenizer))
    result = PartResult(splits=counts, skipped=tuple(skipped), empty=empty)
    if len(skipped) <= task.corpus.error_budget:
        with write_file(part_file(folder, task.index, "json")) as file:
            file.write(result.model_dump_json().encode())
    return result


def _write(file: IO[bytes], text: str, tokenizer: Tokenizer) -> SplitCounts:
    """Appends a document's ids, its delimiter first."""
    dtype = token_dtype(tokenizer.vocab_size)
    ids = tokenizer.encode(text)
    assert ids.dtype == dtype, (ids.dtype, dtype)
    file.write(np.asarray([tokenizer.delimiter_id], dtype).tobytes())
    file.write(ids.tobytes())
    return SplitCounts(documents=1, tokens=1 + len(ids), raw_bytes=len(text.encode("utf-8")))


@lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Tokenizer:
    """One tokenizer a worker: its cache of words serves all the parts."""
    if not is_remote(folder):
        return load_tokenizer(folder)
    with tempfile.TemporaryDirectory(prefix="jaxllm-") as local:
        fetch_folder(as_path(folder), Path(local))
        return load_tokenizer(local)


def plan_shards(
    results: list[PartResult], *, parts: Path, folder: Path, name: str, tokenizer: Tokenizer
) -> list[ShardTask]:
    """The shards of every split that has documents, the closing delimiter counted."""
    tasks = []
    for split in SPLITS:
        tokens = [result.splits[split].tokens for result in results]
        if not any(tokens):
            continue
        lengths = shard_lengths(-(-(sum(tokens) + 1) // RECORD_TOKENS))
        first = 0
        for shard, records in enumerate(lengths):
            stop = first + records * RECORD_TOKENS
            task = ShardTask(
                path=str(folder / shard_name(name, split, shard, len(lengths))),
                split=split,
                first=first // RECORD_TOKENS,
                records=records,
                pieces=_pieces(parts, split, tokens, first, stop),
                delimiter_id=tokenizer.delimiter_id,
                dtype=token_dtype(tokenizer.vocab_size).name,
            )
            tasks.append(task)
            first = stop
    return tasks


def _pieces(
    parts: Path, split: SplitName, tokens: list[int], start: int, stop: int
) -> tuple[tuple[str, int, int], ...]:
    """The pieces of part files that hold ids [start, stop) of the split's stream."""
    pieces, position = [], 0
    for index, size in enumerate(tokens):
        first, last = max(start - position, 0), min(stop - position, size)
        if first < last:
            pieces.append((str(part_file(parts, index, split)), first, last - first))
        position += size
    return tuple(pieces)


def write_shard_of_parts(task: ShardTask) -> None:
    """Writes a shard, or leaves the one that is there."""
    path = Path(task.path)
    if path.exists():
        return
    with written(path) as temporary:
        write_shard(temporary, iter(shard_ids(task)))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def shard_ids(task: ShardTask) -> np.ndarray:
    """The ids of a shard, shape (records, RECORD_TOKENS).

    Whatever the pieces do not fill is the closing delimiter and the filling of the last record.
    """
    ids = np.full(task.records * RECORD_TOKENS, task.delimiter_id, np.dtype(task.dtype))
    position = 0
    for file, first, count in task.pieces:
        ids[position : position + count] = _read_ids(file, first, count, ids.dtype)
        position += count
    return ids.reshape(task.records, RECORD_TOKENS)


def _read_ids(file: str, first: int, count: int, dtype: np.dtype) -> np.ndarray:
    """The ids [first, first + count) of a part."""
    if is_remote(file):
        piece = np.frombuffer(
            read_range(as_path(file), first * dtype.itemsize, count * dtype.itemsize), dtype
        )
    else:
        piece = np.fromfile(file, dtype, count=count, offset=first * dtype.itemsize)
    assert len(piece) == count, f"{file} is shorter than its counts say"
    return piece
