"""Tables of examples: CSV and TSV files, whose cells may name files with texts or pictures."""

import csv
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from jaxllm.data.compression import open_stream
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import expand_paths
from jaxllm.data.example_record import ExampleRecord
from jaxllm.package_paths import located
from jaxllm.schema import Config

PATHS, FILES = "source.paths", "source.files"
_CELL = re.compile(r"\{([^{}]*)\}")


class TableExamplesConfig(Config):
    """CSV, or where a file is so named TSV without quotes; the first line names the fields."""

    type: Literal["table"] = "table"
    """Kind of source: tables."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""
    files: dict[str, str] = Field(default_factory=dict)
    """Further fields, each what is in a file: its path, in which {FIELD} is that field's value."""

    @field_validator("files")
    @classmethod
    def _name_cells(cls, given: dict[str, str]) -> dict[str, str]:
        for field, path in given.items():
            if not _CELL.search(path):
                raise ValueError(f"{field}: {path!r} is one file for all; put {{FIELD}} into it")
        return given

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content: the tables, and what they name."""
        tables = expand_paths(self.paths, key=PATHS)
        if not self.files:
            return tables
        named = (self._named(record).values() for record in self._cells())
        return (*tables, *dict.fromkeys(path for paths in named for path in paths))

    def read_of_paths(self) -> list[list[str]]:
        """What the paths say of the records, as JSON: each field, and the cells that name it."""
        return [[field, *_CELL.findall(path)] for field, path in self.files.items()]

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order."""
        for record in self._cells():
            read = {field: _read(path, record) for field, path in self._named(record).items()}
            yield ExampleRecord({**record.fields, **read}, record.where)

    def _cells(self) -> Iterator[ExampleRecord]:
        for path in expand_paths(self.paths, key=PATHS):
            yield from _rows(path)

    def _named(self, record: ExampleRecord) -> dict[str, Path]:
        return {field: _path(path, record) for field, path in self.files.items()}


def _rows(path: Path) -> Iterator[ExampleRecord]:
    """The rows of one table, each under the line that it begins in."""
    plain_name = path.name.removesuffix(".gz").removesuffix(".zst")
    is_tsv = plain_name.endswith((".tsv", ".tab"))
    with open_stream(str(path)) as file:
        lines = _decoded(file, path)
        if is_tsv:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(lines, strict=True)
        header: list[str] | None = None
        first = 1
        try:
            for cells in _long_rows(reader):
                where, first = f"{path}:{first}", reader.line_num + 1
                if header is None:
                    header = _header(cells, where)
                elif cells:
                    if len(cells) != len(header):
                        raise DatasetError(
                            PATHS, f"{where}: {len(cells)} cells, but {len(header)} fields"
                        )
                    yield ExampleRecord(dict(zip(header, cells, strict=True)), where)
        except csv.Error as error:
            raise DatasetError(PATHS, f"{path}:{first}: not a row of a table: {error}") from error


def _header(cells: list[str], where: str) -> list[str]:
    if not cells or len(set(cells)) < len(cells):
        raise DatasetError(PATHS, f"{where}: the first line must name each field once: {cells}")
    return cells


def _decoded(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(PATHS, f"{path}:{number}: not UTF-8: {error.reason}") from error


def _long_rows(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    """Lets a cell be as long as a text may be; csv allows 128 KiB by itself.

    Only while a row is read, as what others read between two rows has the limit too.
    """
    while True:
        limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        try:
            row = next(rows, None)
        finally:
            csv.field_size_limit(limit)
        if row is None:
            return
        yield row


def _path(template: str, record: ExampleRecord) -> Path:
    """The path that a record's cells complete; they stay inside of the folder that it names."""

    def cell(match: re.Match) -> str:
        value = record.name(match[1], key=FILES)
        if not value or ".." in PurePosixPath(value).parts or value[0] in "/~" or "\0" in value:
            raise DatasetError(
                FILES, f"{record.where}: {match[1]!r} is {value!r}, which names no file below"
            )
        return value

    return located(_CELL.sub(cell, template))


def _read(path: Path, record: ExampleRecord) -> bytes:
    if not path.is_file():
        raise DatasetError(FILES, f"{record.where}: it names {path}, and there is no such file")
    return path.read_bytes()
