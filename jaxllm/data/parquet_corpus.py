"""Parquet files: each row is a document, in a column of text."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import BadRecord, Record, Span, decode_utf8, expand_paths
from jaxllm.data.remote_files import open_file
from jaxllm.schema import Config
from jaxllm.storage import is_remote

BATCH_ROWS = 256


class ParquetCorpusConfig(Config):
    """Parquet files with a column of text, one document a row."""

    type: Literal["parquet"] = "parquet"
    """Kind of corpus: Parquet files."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs, also in gs://; `package://NAME/GLOB` names files of an installed package."""
    text_column: str = "text"
    """Name of the column that holds the text."""
    error_budget: int = Field(default=0, ge=0)
    """Number of rows that may be skipped because they are null or not UTF-8."""

    def build(self) -> "ParquetCorpus":
        """The corpus, which reads nothing yet."""
        return ParquetCorpus(self.paths, text_column=self.text_column)


class ParquetCorpus:
    """See `Corpus`; a span is a range of row groups."""

    def __init__(self, paths: tuple[str, ...], *, text_column: str) -> None:
        self._paths = paths
        self._column = text_column

    def files(self) -> tuple[Path, ...]:
        return expand_paths(self._paths)

    def sources(self) -> tuple[str, ...]:
        return tuple(str(path) for path in self.files())

    def scan(self, source: str, span_bytes: int) -> list[Span]:
        """One span for each row group: the unit that Parquet reads."""
        with _open(source) as file:
            self._check_column(source, file)
            column = file.schema_arrow.names.index(self._column)
            spans, first = [], 0
            for group in range(file.metadata.num_row_groups):
                metadata = file.metadata.row_group(group)
                size = metadata.column(column).total_uncompressed_size
                span = Span(source, group, group + 1, metadata.num_rows, first, size)
                spans.append(span)
                first += metadata.num_rows
        return spans

    def read(self, span: Span) -> Iterator[Record]:
        import pyarrow

        row = span.first
        groups = list(range(span.start, span.stop))
        with _open(span.source) as file:
            batches = file.iter_batches(BATCH_ROWS, row_groups=groups, columns=[self._column])
            try:
                for batch in batches:
                    # As bytes, so that one bad value does not cost the whole batch.
                    for value in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                        yield _record(value, f"{span.source}:row {row}")
                        row += 1
            except (pyarrow.ArrowException, OSError) as error:
                raise _damaged(span.source, error) from error

    def _check_column(self, source: str, file: Any) -> None:
        import pyarrow.types as types

        schema = file.schema_arrow
        if self._column not in schema.names:
            raise DatasetError(
                "corpus.text_column",
                f"{source} has no column {self._column!r}; it has {', '.join(schema.names)}",
            )
        kind = schema.field(self._column).type
        text_kinds = (types.is_string, types.is_large_string, types.is_binary)
        if not any(is_kind(kind) for is_kind in (*text_kinds, types.is_large_binary)):
            raise DatasetError(
                "corpus.text_column", f"column {self._column!r} of {source} holds {kind}, not text"
            )


def _record(value: bytes | None, where: str) -> Record:
    return BadRecord(where, "the text is null") if value is None else decode_utf8(value, where)


@contextmanager
def _open(source: str) -> Iterator[Any]:
    """The file, its footer read."""
    import pyarrow
    import pyarrow.parquet

    with ExitStack() as stack:
        # By its path where it has one: the library then reads without the interpreter's lock.
        file = stack.enter_context(open_file(source)) if is_remote(source) else source
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise _damaged(source, error) from error
        yield opened


def _damaged(source: str, error: Exception) -> ValueError:
    return ValueError(f"{source} cannot be read: {error}; the file is truncated or corrupt")
