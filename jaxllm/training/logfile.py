"""A file that only grows by whole records, and is cut only by replacing it at once.

A process can die between any two instructions, and a disk can fill in the middle of a record.
After either, the file holds complete records and at most one torn one at its end. Errors that a
network file system has now and then are tried again a few times.
"""

import errno
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR),
)
_PAUSES = (0.1, 0.5)  # seconds between the three tries


class LogFile:
    """An append-only file of records. Each `append` reaches the operating system before it returns.

    It is unbuffered on purpose: a buffer would hold records back from readers, lose them when the
    process is killed, and report a full disk a second time at close. One process writes a file; its
    threads must take turns.
    """

    def __init__(self, path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """sleep: waits so many seconds before an append is tried again.

        Raises OSError that names the file where it cannot be opened, such as on a read-only file
        system.
        """
        self.path = path
        self._sleep = sleep
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise in_words(error, path) from error
        self._torn_from: int | None = None
        self._is_stale = False
        self._has_failed = False

    def append(self, record: bytes) -> None:
        """Adds `record` whole or not at all.

        Errors that may pass (of input and output, stale handles, time-outs, busy files) are tried
        three times in all. Raises OSError that names the file when the disk is full or the last try
        failed; what was written of the record is taken back, at the latest by the next append. That
        one and those after it have one try, until one succeeds: who goes on must not be held up.
        """
        for pause in (None,) if self._has_failed else (*_PAUSES, None):
            try:
                self._append(record)
                self._has_failed = False
                return
            except OSError as error:
                self._is_stale |= error.errno == errno.ESTALE
                if error.errno not in _PASSING or pause is None:
                    self._has_failed = True
                    raise in_words(error, self.path) from error
                self._sleep(pause)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        self._file.close()

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, record: bytes) -> None:
        if self._is_stale:  # its server no longer knows the file that is held
            fresh = self._open()
            with suppress(OSError):
                self._file.close()
            self._file, self._is_stale = fresh, False
        if self._torn_from is not None:
            self._file.truncate(self._torn_from)
            self._torn_from = None
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record)
        try:
            while rest:
                written = self._file.write(rest)
                if written is None:  # how a raw file says that it would have to wait
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                rest = rest[written:]
        except OSError:
            self._torn_from = start
            with suppress(OSError):  # then the next append does it
                self._file.truncate(start)
                self._torn_from = None
            raise

    def _open(self) -> io.FileIO:
        return open(self.path, "ab", buffering=0)


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` in the place of `path` at once: a reader or a crash sees the old or the new.

    Errors that may pass are tried as those of `LogFile.append`. Raises OSError that names the file
    when the disk is full or the last try failed; `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    for pause in (*_PAUSES, None):
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            return
        except OSError as error:
            with suppress(OSError):  # it may be refused as well, and the next call writes over it
                temporary.unlink(missing_ok=True)
            if error.errno not in _PASSING or pause is None:
                raise in_words(error, path) from error
            time.sleep(pause)


def in_words(error: OSError, path: Path) -> OSError:
    """`error`, about writing `path`, with words that a user can act on."""
    if error.errno in _NO_SPACE:
        text = "The disk is full (or over quota) and this file could not be written. Nothing "
        text += "written before is lost: free some space and run the same command again"
    elif error.errno == errno.EROFS:
        text = "This file system is read-only and the file could not be written: make it "
        text += "writable, or give another run_dir"
    elif error.errno in _PASSING:
        text = f"{os.strerror(error.errno)}, also when this file was tried again. Nothing written "
        text += "before is lost: see to the file system and run the same command again"
    elif error.errno is not None:
        text = os.strerror(error.errno)
    else:
        return error
    return OSError(error.errno, text, str(path))
