"""A folder of unfinished work: locked while in use, kept while a rerun can go on from it."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from jaxllm.data.remote_files import remove_folder


@contextmanager
def work_folder(work: Path, *, is_worth_keeping: Callable[[ValueError], bool]) -> Iterator[None]:
    """Makes the folder for one process at a time; others wait. Removed when all went well.

    So it is after a ValueError, which tells of bad input, unless that `is_worth_keeping`. An
    OSError, such as a full disk, says where the finished part of the work is kept.
    """
    with _locked(work):
        for leftover in work.glob("*/*.tmp"):
            leftover.unlink()
        with _kept_or_removed(work, is_worth_keeping, _remove):
            yield


@contextmanager
def remote_work_folder(
    work: Path, *, is_worth_keeping: Callable[[ValueError], bool]
) -> Iterator[None]:
    """As `work_folder`, in a bucket, where nothing is locked.

    Two processes that make the same dataset write the same objects there, each in full or not.
    """
    with _kept_or_removed(work, is_worth_keeping, remove_folder):
        yield


@contextmanager
def _kept_or_removed(
    work: Path, is_worth_keeping: Callable[[ValueError], bool], remove: Callable[[Path], None]
) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{error}; nothing is lost: what is finished is kept in {work}; make room and "
            f"run the same command again"
        ) from error
    except ValueError as error:
        if not is_worth_keeping(error):
            remove(work)
        raise
    remove(work)


def _remove(work: Path) -> None:
    """Removes the folder while it is locked: nobody is at work in it, and nobody begins."""
    shutil.rmtree(work, ignore_errors=True)


def _locked(work: Path) -> IO[str]:
    """Makes the folder and locks it, until the file is closed or the process dies."""
    path = work / "lock"
    while True:
        work.mkdir(parents=True, exist_ok=True)
        # Whoever held the lock before may have removed the folder, and this lock with it.
        with ExitStack() as stack, suppress(FileNotFoundError):
            lock = stack.enter_context(path.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                stack.pop_all()
                return lock
