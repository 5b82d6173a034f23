"""Files of tagged words, as the tasks of the CoNLL conferences have them."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field

from jaxllm.data.compression import open_stream
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import expand_paths
from jaxllm.data.example_record import ExampleRecord
from jaxllm.schema import Config

PATHS = "source.paths"
_NEW_DOCUMENT = "-DOCSTART-"  # stands in a line of its own, and is no word


class ConllExamplesConfig(Config):
    """A word a line, in columns between white space; a blank line ends a text.

    A record is a text, with the fields `words`, of the first column, and `tags`, of the last one,
    where there are several. It is named by its first line.
    """

    type: Literal["conll"] = "conll"
    """Kind of source: columns of words and tags."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content."""
        return expand_paths(self.paths, key=PATHS)

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order. DatasetError for lines of a file with different columns."""
        for path in self.all_files():
            yield from _texts(path)


def _texts(path: Path) -> Iterator[ExampleRecord]:
    rows: list[list[str]] = []
    first, num_columns = 0, 0
    with open_stream(str(path)) as file:
        for number, line in enumerate(chain(file, (b"",)), start=1):
            columns = _columns(line, f"{path}:{number}")
            if not columns or columns[0] == _NEW_DOCUMENT:
                if rows:
                    yield _record(rows, f"{path}:{first}")
                rows = []
                continue
            num_columns = num_columns or len(columns)
            if len(columns) != num_columns:
                raise DatasetError(
                    PATHS,
                    f"{path}:{number}: {len(columns)} columns, but {num_columns} in the lines "
                    "before; words and tags have no spaces",
                )
            if not rows:
                first = number
            rows.append(columns)


def _columns(line: bytes, where: str) -> list[str]:
    try:
        # Only these part columns: others, as the no-break space, are of words.
        text = line.decode("utf-8-sig").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise DatasetError(PATHS, f"{where}: not UTF-8: {error.reason}") from error
    return re.split(r"[ \t]+", text) if text else []


def _record(rows: list[list[str]], where: str) -> ExampleRecord:
    fields = {"words": [row[0] for row in rows]}
    if len(rows[0]) > 1:
        fields["tags"] = [row[-1] for row in rows]
    return ExampleRecord(fields, where)
