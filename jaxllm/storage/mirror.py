"""A folder in a bucket as a local one: brought down as a whole, and sent up file by file.

Objects cannot be appended to, and appending is what a run does. So its small files are written
here, and sent up whole when they changed. The bucket is the truth: what is here and not there
when a mirror is brought down goes away.

Files and folders whose name begins with a dot are of this machine alone.
"""

import base64
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import md5, sha256
from pathlib import Path, PurePath
from typing import NamedTuple

from jaxllm.storage import text_of
from jaxllm.storage.bucket import BucketFiles, Stored
from jaxllm.storage.cache import cache_folder

ORIGIN_FILE = "origin"

_SHARE = 20  # times as long as a sending took, the pause until the next is at least


def mirror_folder(url: str | PurePath, process: int = 0) -> Path:
    """Where a process of a run has its mirror: .../runs/HASH/PROCESS/NAME in the user's cache."""
    text = text_of(url)
    key = sha256(text.encode()).hexdigest()[:12]
    return cache_folder() / "runs" / key / str(process) / text.rpartition("/")[2]


def read_origin(folder: Path) -> str | None:
    """The URL that a local folder is a mirror of, or None."""
    path = folder / ORIGIN_FILE
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


class _Version(NamedTuple):
    """A local file as it was when it was read; another version differs in one of these."""

    modified: int
    size: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "_Version":
        status = path.stat()
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


class Mirror:
    """The local folder of one in a bucket. One process sends; its threads may at any time."""

    def __init__(
        self, url: str, folder: Path, *, names: Sequence[str], first: str, last: Sequence[str] = ()
    ) -> None:
        """A mirror of the folder `url` in `folder`, of those names in it that `names` has.

        A name that ends with a slash is a folder with all that is in it. first: the file without
        which the folder counts as empty. last: files that are sent after all others, in this order.
        ValueError for a URL that is none.
        """
        self.folder = folder
        self._bucket = BucketFiles(url)
        self.url = self._bucket.url
        self._names, self._first, self._last = tuple(names), first, tuple(last)
        self._sent: dict[str, _Version | None] = {}  # None: there, and in another version
        self._lock = threading.Lock()

    def bring_down(self) -> list[str]:
        """Make the local folder what is in the bucket.

        Returns the names in the bucket's folder that are not of the mirror; one of a folder ends
        with a slash. OSError if the bucket cannot be reached.
        """
        there = self._bucket.names()
        objects = self._bucket.objects([name for name in self._names if name in there])
        is_empty = self._first not in there
        wanted = {} if is_empty else objects
        missing = {name: self.folder / name for name in wanted if not self._has(name, wanted[name])}
        with self._lock:
            self._remove_all_but(wanted)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._bucket.fetch(missing)
            self._sent = dict.fromkeys(objects) | {
                name: _Version.of(self.folder / name) for name in wanted
            }
            (self.folder / ORIGIN_FILE).write_text(self.url + "\n", encoding="utf-8")
        return [name for name in there if name not in self._names]

    def send(self) -> None:
        """Send up what changed since it was sent or brought down; what is gone here, goes there.

        A file that grows meanwhile is sent as it is now. OSError if the bucket cannot be reached.
        """
        with self._lock:
            here = self._local()
            for name in [name for name in self._sent if name not in here]:
                self._bucket.remove(name)
                del self._sent[name]
            changed = [name for name in here if self._sent.get(name) != here[name]]
            for name in sorted(changed, key=self._turn):
                with suppress(FileNotFoundError):  # one that was removed just now
                    content = (self.folder / name).read_bytes()
                    self._bucket.send(name, content)
                    self._sent[name] = here[name]

    def _turn(self, name: str) -> tuple[int, str]:
        return (self._last.index(name) + 1 if name in self._last else 0), name

    def _local(self) -> dict[str, _Version]:
        """The files here that belong there too."""
        found = {}
        for folder, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(folder) / name for name in names if not name.startswith(".")):
                with suppress(FileNotFoundError):  # one that just got another name
                    found[path.relative_to(self.folder).as_posix()] = _Version.of(path)
        found.pop(ORIGIN_FILE, None)
        return found

    def _has(self, name: str, stored: Stored) -> bool:
        """Whether the file is here as it is there."""
        path = self.folder / name
        if not stored.md5 or not path.is_file() or path.stat().st_size != stored.size:
            return False
        return base64.b64encode(md5(path.read_bytes()).digest()).decode() == stored.md5

    def _remove_all_but(self, wanted: dict[str, Stored]) -> None:
        for name in self._local():
            if name not in wanted:
                (self.folder / name).unlink()
        for below, _, _ in os.walk(self.folder, topdown=False):
            if not os.listdir(below):  # where there is a folder, a run looks for what is in it
                os.rmdir(below)
        for path in self.folder.glob(".*"):
            if path.name.endswith((".tmp", ".partial")):  # of a start that was killed
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Sending:
    """Sends a mirror up from time to time in a thread, and at the end. A context manager.

    Leaving it sends what came last: OSError if that fails, unless another error is on its way.
    What fails in between is said once, and tried again at the next turn.
    """

    def __init__(
        self, mirror: Mirror, *, say: Callable[[str], None], interval: float = 30.0
    ) -> None:
        """say: shows one line. interval: seconds from one sending to the next, more where it takes
        long."""
        self._mirror, self._say, self._interval = mirror, say, interval
        self._is_failing = False
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")

    def __enter__(self) -> "Sending":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if kind is None:
            self._mirror.send()
        else:
            self.try_to_send()

    def try_to_send(self) -> float:
        """Send what changed, or say once that it failed. Returns the seconds it took."""
        began = time.monotonic()
        try:
            self._mirror.send()
        except OSError as error:
            if not self._is_failing:
                self._say(f"the run folder is not sent up, and tried again: {error}")
            self._is_failing = True
        else:
            if self._is_failing:
                self._say(f"the run folder is sent up to {self._mirror.url} again")
            self._is_failing = False
        return time.monotonic() - began

    def _run(self) -> None:
        took = 0.0
        while not self._is_over.wait(max(self._interval, _SHARE * took)):
            took = self.try_to_send()
