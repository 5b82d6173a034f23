"""What a corpus is made of: documents, the spans that workers read, and the paths they lie in."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.missing import MissingData
from jaxllm.data.remote_files import glob_files
from jaxllm.package_paths import SCHEME, package_folder
from jaxllm.storage import is_remote


@dataclass(frozen=True)
class Document:
    """One text and the place it came from, as a user would look it up (`FILE` or `FILE:LINE`)."""

    text: str
    where: str


@dataclass(frozen=True)
class BadRecord:
    """A record that is no document: where it stands and why it cannot be used."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Span:
    """A piece of one source that a worker reads alone.

    `start` and `stop` count what the reader of that source counts (bytes, rows, row groups).
    """

    source: str
    start: int
    stop: int
    records: int
    """Records in the span, bad and blank ones included: what `every n-th` counts."""
    first: int
    """Index of the first record within its source, to name a record in an error."""
    size: int
    """Bytes of text in the span, approximately: what the work is divided by."""


Record = Document | BadRecord | None
"""One record as read; None is a blank line, which is neither a document nor an error."""


class Corpus(Protocol):
    """Documents in a fixed order: `sources`, in each source its spans, in each span its records.

    A corpus is rebuilt from its config in every worker, so `sources` is asked once, in the
    parent, and `scan` and `read` depend on their arguments alone.
    """

    def sources(self) -> tuple[str, ...]:
        """Names of the sources, in order. Raises ValueError when there is none."""

    def files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content of the corpus."""

    def scan(self, source: str, span_bytes: int) -> list[Span]:
        """Cuts a source into spans of about `span_bytes` bytes of text."""

    def read(self, span: Span) -> Iterator[Record]:
        """Yields exactly `span.records` records."""


def decode_utf8(data: bytes, where: str) -> Document | BadRecord:
    """The bytes as a document, or a bad record that names the offending byte."""
    try:
        return Document(text=data.decode("utf-8"), where=where)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8: byte {error.start} is 0x{data[error.start]:02x} ({error.reason})"
        return BadRecord(where=where, reason=reason)


def expand_paths(paths: Sequence[str], *, key: str = "corpus.paths") -> tuple[Path, ...]:
    """The files that paths and globs name, sorted within each pattern, each file once.

    `package://NAME/GLOB` names files of an installed Python package, which is not imported;
    `gs://BUCKET/GLOB` those of a bucket. Raises MissingData, under that key of the dataset, for a
    pattern that matches no file.
    """
    found: dict[Path, None] = {}
    for pattern in paths:
        files = _files(pattern, key)
        if not files:
            raise _missing(
                key, f"{pattern!r} matches no file; give files or globs, such as 'texts/**/*.txt'"
            )
        found.update(dict.fromkeys(files))
    return tuple(found)


def _files(pattern: str, key: str) -> list[Path]:
    if not pattern.startswith(SCHEME) and is_remote(pattern):
        return glob_files(pattern)
    matches = (Path(match) for match in sorted(_matches(pattern, key)))
    return [match for match in matches if match.is_file()]


def _matches(pattern: str, key: str) -> list[str]:
    """What one pattern matches, files and folders."""
    if not pattern.startswith(SCHEME):
        return glob.glob(str(Path(pattern).expanduser()), recursive=True)
    name, _, inside = pattern.removeprefix(SCHEME).partition("/")
    try:
        folder = package_folder(name, pattern)
    except ValueError as error:
        raise _missing(key, str(error)) from error
    return glob.glob(str(folder / inside), recursive=True)


def _missing(key: str, problem: str) -> MissingData:
    whole = key.partition(".")[0]
    return MissingData(DatasetError(key, f"the {whole} is empty or missing: {problem}"))
