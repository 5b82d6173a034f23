"""A folder of unfinished work: locked while in use, kept after a failure, removed at the end."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def work_folder(work: Path) -> Iterator[None]:
    """Makes the folder for one process at a time; others wait. Removed when all went well.

    An OSError, such as a full disk, says where the finished part of the work is kept.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system when the process dies
        work.mkdir(exist_ok=True)  # whoever held the lock before may have finished the work
        for leftover in work.glob("*/*.tmp"):
            leftover.unlink()
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{error}; nothing is lost: what is finished is kept in {work}; make room and "
                f"run the same command again"
            ) from error
    shutil.rmtree(work, ignore_errors=True)
