"""The folders that checkpoints are in, of two kinds: on a disk, and in a bucket.

What makes a checkpoint complete differs, and so does all that would use a rename, a time of
change or the room on a disk. It differs here, and in the two files beside this one, alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from jaxllm.storage import as_path, is_remote

QUARANTINE = "quarantine"  # beside the checkpoints; no step has such a name


def folder_of(path: Path) -> "Folder":
    """The folder at a path; a `pathlib.Path`, or an `epath.Path` for one in a bucket."""
    # Not above: both kinds build on Folder.
    if is_remote(path):
        from jaxllm.checkpoints.bucket_folder import BucketFolder

        return BucketFolder(as_path(path))
    from jaxllm.checkpoints.disk_folder import DiskFolder

    return DiskFolder(path)


class Folder(ABC):
    """A folder with files, as one checkpoint is, or with checkpoints, as those of a run are.

    Everything here raises an OSError for what is refused, with an errno where it has one.
    """

    num_readers: ClassVar[int]
    """How many files are best read at a time."""

    def __init__(self, path: Path):
        self.path = path

    # Files, by their path relative to the folder.

    @abstractmethod
    def names(self) -> list[str]:
        """All files under the folder, sorted."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes; None for what is no plain file. FileNotFoundError."""

    @abstractmethod
    def version(self, name: str) -> int | None:
        """A number that is another once a file is written again; None if it is missing."""

    @abstractmethod
    def digest(self, name: str) -> tuple[int, str]:
        """The bytes of a file and their SHA-256, read now. FileNotFoundError."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """What is in a small file. FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a small file, which is there for good on return."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file. FileNotFoundError."""

    # Checkpoints, each a folder named by its step.

    @abstractmethod
    def steps(self) -> list[int]:
        """Those that are complete, sound or not, oldest first."""

    @abstractmethod
    def being_saved(self, step: int, attempt: int) -> Path:
        """Where the files of a step are until it is complete."""

    @abstractmethod
    def remove_incomplete(self, step: int | None = None) -> None:
        """Remove what saves that failed left behind: of one step, or of all.

        What cannot be removed now is no checkpoint, and the next start tries again.
        """

    @abstractmethod
    def discard(self, step: int) -> None:
        """Delete a checkpoint; a kill leaves it complete, or something to remove."""

    @abstractmethod
    def set_aside(self, step: int) -> Path:
        """Move a checkpoint, with all that is in it, to the quarantine; where it is now."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """The room that is left; None where there is no end of it."""

    # What Orbax must know.

    @abstractmethod
    def absolute_path(self) -> Path:
        """The path that Orbax takes."""

    @abstractmethod
    def temporary_path_class(
        self, attempt: Callable[[], int], seal: Callable[[Path], None]
    ) -> type:
        """The class by which Orbax makes, names and completes the folder of a step.

        attempt: the number of the save under way, the same on every process. seal: adds to a
        step's folder, in which all else is, what must be there before it is complete.
        """

    def manager_options(self) -> dict[str, Any]:
        """Further options of Orbax's manager."""
        return {}


def quarantine_name(step: int, taken: Iterable[str]) -> str:
    """The step, with a number if that name is taken already: a step can be corrupt twice."""
    taken = set(taken)
    names = (str(step) if n == 0 else f"{step}-{n}" for n in range(len(taken) + 1))
    return next(name for name in names if name not in taken)
