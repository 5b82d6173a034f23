"""Plain text files: each file is one document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from jaxllm.data.documents import Record, Span, decode_utf8, expand_paths
from jaxllm.data.remote_files import file_sizes, read_file
from jaxllm.schema import Config
from jaxllm.storage import as_path


class TextCorpusConfig(Config):
    """Text files in UTF-8, one document a file, in the order of their sorted paths."""

    type: Literal["text"] = "text"
    """Kind of corpus: plain text files."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs, also in gs://; `package://NAME/GLOB` names files of an installed package."""
    error_budget: int = Field(default=0, ge=0)
    """Number of files that may be skipped because they are not UTF-8."""

    def build(self) -> "TextCorpus":
        """The corpus, which reads nothing yet."""
        return TextCorpus(self.paths)


class TextCorpus:
    """See `Corpus`; a source is a file, and a span is a whole file."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths

    def files(self) -> tuple[Path, ...]:
        return expand_paths(self._paths)

    def sources(self) -> tuple[str, ...]:
        return tuple(str(path) for path in self.files())

    def scan(self, source: str, span_bytes: int) -> list[Span]:
        (size,) = file_sizes([as_path(source)])
        return [Span(source=source, start=0, stop=size, records=1, first=0, size=size)]

    def read(self, span: Span) -> Iterator[Record]:
        yield decode_utf8(read_file(as_path(span.source)), span.source)
