"""JSON lines: each line is an object with a text field. Plain files, .gz and .zst."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from pydantic import Field

from jaxllm.data.compression import BLOCK_BYTES, is_compressed, open_stream
from jaxllm.data.documents import BadRecord, Document, Record, Span, expand_paths
from jaxllm.schema import Config


class JsonlCorpusConfig(Config):
    """JSON lines in UTF-8, one document a line; compressed files are named .gz or .zst."""

    type: Literal["jsonl"] = "jsonl"
    """Kind of corpus: JSON lines."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs, also in gs://; `package://NAME/GLOB` names files of an installed package."""
    text_key: str = "text"
    """Key of the text in each line's object."""
    error_budget: int = Field(default=0, ge=0)
    """Number of lines that may be skipped because they are malformed."""

    def build(self) -> "JsonlCorpus":
        """The corpus, which reads nothing yet."""
        return JsonlCorpus(self.paths, text_key=self.text_key)


class JsonlCorpus:
    """See `Corpus`; a span is a range of bytes cut at line ends, or a whole compressed file."""

    def __init__(self, paths: tuple[str, ...], *, text_key: str) -> None:
        self._paths = paths
        self._text_key = text_key

    def files(self) -> tuple[Path, ...]:
        return expand_paths(self._paths)

    def sources(self) -> tuple[str, ...]:
        return tuple(str(path) for path in self.files())

    def scan(self, source: str, span_bytes: int) -> list[Span]:
        """Counts lines; a compressed file cannot be entered midway, so it is a single span."""
        spans: list[Span] = []
        start = position = first = lines = 0
        last = b"\n"
        with open_stream(source) as file:
            for block in iter(lambda: file.read(BLOCK_BYTES), b""):
                offset = 0
                while offset < len(block):
                    cut = _cut(block, offset, start + span_bytes - position)
                    if cut < 0 or is_compressed(source):
                        lines += block.count(b"\n", offset)
                        break
                    lines += block.count(b"\n", offset, cut)
                    spans.append(_span(source, start, position + cut, first, lines))
                    start, first, lines, offset = position + cut, first + lines, 0, cut
                position += len(block)
                last = block[-1:]
        lines += last != b"\n"
        if lines:
            spans.append(_span(source, start, position, first, lines))
        return spans

    def read(self, span: Span) -> Iterator[Record]:
        with open_stream(span.source) as file:
            if span.start:
                file.seek(span.start)
            for index, line in enumerate(_lines(file, span)):
                yield self._parse(line, f"{span.source}:{span.first + index + 1}")

    def _parse(self, line: bytes, where: str) -> Record:
        """One line as a document, a bad record, or None when it is blank."""
        if not line.strip():
            return None
        try:
            value = json.loads(line)
        except UnicodeDecodeError as error:
            return BadRecord(where, f"not UTF-8: byte {error.start} of the line ({error.reason})")
        except json.JSONDecodeError as error:
            return BadRecord(where, f"not JSON: {error.msg} at column {error.colno}")
        except RecursionError:
            return BadRecord(where, "not JSON that can be read: nested too deeply")
        if not isinstance(value, dict):
            return BadRecord(where, f"not a JSON object but a {type(value).__name__}")
        if self._text_key not in value:
            keys = ", ".join(sorted(value)) or "none"
            return BadRecord(where, f"no text under key {self._text_key!r} (keys: {keys})")
        text = value[self._text_key]
        if not isinstance(text, str):
            kind = "null" if text is None else f"of type {type(text).__name__}"
            return BadRecord(where, f"the value of {self._text_key!r} is {kind}, not text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return BadRecord(where, f"text with a lone surrogate at character {error.start}")
        return Document(text, where)


def _span(source: str, start: int, stop: int, first: int, lines: int) -> Span:
    return Span(
        source=source, start=start, stop=stop, records=lines, first=first, size=stop - start
    )


def _cut(block: bytes, offset: int, target: int) -> int:
    """The end of the line that holds byte `target` of the block, or -1 if it ends later."""
    if target > len(block):
        return -1
    return block.find(b"\n", max(offset, target - 1)) + 1 or -1


def _lines(file: IO[bytes], span: Span) -> Iterator[bytes]:
    """The lines of a span, without their line ends."""
    for _ in range(span.records):
        line = file.readline()
        if not line:
            raise ValueError(f"{span.source} became shorter while it was read; run again")
        yield line.rstrip(b"\r\n")
