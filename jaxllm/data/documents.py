"""What a corpus is made of: documents, the spans that workers read, and the paths they lie in."""

import glob
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.missing import MissingData
from jaxllm.data.remote_files import glob_files
from jaxllm.storage import is_remote

PACKAGE_SCHEME = "package://"


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


def expand_paths(paths: Sequence[str]) -> tuple[Path, ...]:
    """The files that paths and globs name, sorted within each pattern, each file once.

    `package://NAME/GLOB` names files of an installed Python package, which is not imported;
    `gs://BUCKET/GLOB` those of a bucket. Raises MissingData for a pattern that matches no file.
    """
    found: dict[Path, None] = {}
    for pattern in paths:
        files = _files(pattern)
        if not files:
            raise _missing(
                f"{pattern!r} matches no file; give files or globs, such as 'texts/**/*.txt'"
            )
        found.update(dict.fromkeys(files))
    return tuple(found)


def _files(pattern: str) -> list[Path]:
    if not pattern.startswith(PACKAGE_SCHEME) and is_remote(pattern):
        return glob_files(pattern)
    matches = (Path(match) for match in sorted(_matches(pattern)))
    return [match for match in matches if match.is_file()]


def _matches(pattern: str) -> list[str]:
    """What one pattern matches, files and folders."""
    if pattern.startswith(PACKAGE_SCHEME):
        name, _, inside = pattern.removeprefix(PACKAGE_SCHEME).partition("/")
        return glob.glob(str(_package_folder(name, pattern) / inside), recursive=True)
    return glob.glob(str(Path(pattern).expanduser()), recursive=True)


def _package_folder(name: str, pattern: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise _missing(
            f"{pattern!r} names the Python package {name!r}, which is not installed; install it, "
            f"or give other files"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _missing(problem: str) -> MissingData:
    return MissingData(DatasetError("corpus.paths", f"the corpus is empty or missing: {problem}"))
