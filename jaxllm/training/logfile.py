"""A file that only grows by whole records, and is cut only by replacing it at once.

A process can die between any two instructions, and a disk can fill in the middle of a record.
After either, the file holds complete records and at most one torn one at its end.
"""

import errno
import os
from pathlib import Path
from types import TracebackType

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class LogFile:
    """An append-only file of records. Each `append` reaches the operating system before it returns.

    It is unbuffered on purpose: a buffer would hold records back from readers, lose them when the
    process is killed, and report a full disk a second time at close.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (held open between records)

    def append(self, record: bytes) -> None:
        """Adds `record` whole or not at all.

        Raises OSError (ENOSPC or EDQUOT) that names the file when the disk is full; what was
        written of the record is taken back first.
        """
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(record)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(start)
            raise full_disk(error, self.path) from error

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


def replace_file(path: Path, content: bytes) -> None:
    """Puts `content` in the place of `path` at once: a reader or a crash sees the old or the new.

    Raises OSError (ENOSPC or EDQUOT) that names the file when the disk is full; `path` is then
    as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise full_disk(error, path) from error


def full_disk(error: OSError, path: Path) -> OSError:
    """`error` in words a user can act on if it says that the disk is full, else `error` itself."""
    if error.errno not in _NO_SPACE:
        return error
    return OSError(
        error.errno,
        "The disk is full (or over quota) and this file could not be written. Nothing written "
        "before is lost: free some space and run the same command again",
        str(path),
    )
