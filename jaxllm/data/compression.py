"""Files read as streams of uncompressed bytes; damage is reported with the file's name."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from jaxllm.data.remote_files import open_file

SUFFIXES = (".gz", ".zst")
BLOCK_BYTES = 1 << 20

# A zstd block of 4 bytes can stand for 128 KiB, and the library returns all that its input holds:
# from so much at a time that is 16 MiB at most, and text comes faster than lines can be parsed.
ZSTD_INPUT_BYTES = 512


def is_compressed(path: str) -> bool:
    """Whether the file's name says that it is compressed."""
    return path.endswith(SUFFIXES)


@contextmanager
def open_stream(path: str) -> Iterator[IO[bytes]]:
    """Opens a plain, .gz or .zst file for reading.

    Raises ValueError from the `with` block when the file turns out truncated or corrupt.
    """
    try:
        with open_file(path) as file:
            if path.endswith(".gz"):
                yield cast(IO[bytes], gzip.GzipFile(fileobj=file))
            elif path.endswith(".zst"):
                yield cast(IO[bytes], io.BufferedReader(_ZstdFile(file), BLOCK_BYTES))
            else:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error


class _ZstdFile(io.RawIOBase):
    """The frames of a .zst file; a frame cut short is an EOFError, as in gzip."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        self._file = file
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None  # None between two frames
        self._pending = memoryview(b"")
        self._error = zstandard.ZstdError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            piece = self._next_input()
            if not piece:
                if self._frame is not None:
                    raise EOFError("the last zstd frame is incomplete")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._pending = memoryview(self._frame.decompress(piece))
            except self._error as error:
                raise EOFError(str(error)) from error
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    def _next_input(self) -> bytes:
        """The next piece for the decompressor, first what it left behind the end of a frame."""
        if self._frame is not None and self._frame.eof:
            unused = bytes(self._frame.unused_data)
            self._frame = None
            if unused:
                return unused
        return self._file.read(ZSTD_INPUT_BYTES)
