"""What a checkpoint holds, file by file, so that a changed bit is found before it is used.

The file MANIFEST of a step's folder lists every other file under it. Line 1 is the SHA-256 of all
that follows, which is JSON: {path: [bytes, SHA-256]}. Orbax and TensorStore restore flipped bits
without a word.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

MANIFEST_FILE = "MANIFEST"
_THREADS = 8  # hashlib lets go of the interpreter lock, and a network file system answers late
_MISSING = "is missing"
_SMALL = 1 << 20  # bytes; above them a shallow look reads no content


class Entry(NamedTuple):
    """A file as it was when the checkpoint was complete."""

    size: int
    sha256: str


class Damage(NamedTuple):
    """The first thing found wrong with a checkpoint."""

    file: str
    problem: str

    @property
    def is_missing(self) -> bool:
        """Whether the file is not there, which a network file system may say of one that is."""
        return self.problem.startswith(_MISSING)

    def __str__(self) -> str:
        return f"{self.file} {self.problem}"


def write_manifest(folder: Path, known: Mapping[str, Entry] | None = None) -> None:
    """List all files under `folder`; `known` are those whose entries are computed already.

    OSError if a file cannot be read, or the list not be written.
    """
    known = known or {}
    names = [name for name in files_under(folder) if name != MANIFEST_FILE]
    entries = digests(folder, [name for name in names if name not in known])
    entries |= {name: known[name] for name in names if name in known}
    body = json.dumps(dict(sorted(entries.items())), indent=0).encode()
    with (folder / MANIFEST_FILE).open("wb") as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())


def files_under(folder: Path) -> list[str]:
    """The path of every file under a folder, relative to it, sorted."""
    return sorted(
        str((Path(root) / name).relative_to(folder))
        for root, _, names in os.walk(folder, onerror=_raise)
        for name in names
    )


def digests(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Size and SHA-256 of files, read by several threads."""
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _entry(folder / name), names), strict=True))


def find_damage(
    folder: Path, *, share: int = 0, shares: int = 1, is_deep: bool = True
) -> Damage | None:
    """The first file that is not as it was saved; None for a folder that is as the manifest says.

    Looks at the files number share, share + shares, ... alone. Not `is_deep`: of large files only
    the size counts. Files that the manifest does not name are not looked at, and nothing reads
    them. OSError for what the system refuses to read: that is no damage yet.
    """
    entries = _read_manifest(folder)
    if isinstance(entries, Damage):
        return entries

    def look(name: str) -> Damage | None:
        problem = _problem(folder / name, entries[name], is_deep=is_deep)
        return None if problem is None else Damage(name, problem)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(look, sorted(entries)[share::shares])
        return next((damage for damage in found if damage is not None), None)


def _read_manifest(folder: Path) -> dict[str, Entry] | Damage:
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return Damage(MANIFEST_FILE, f"{_MISSING}; the rest is not complete, or half gone")
    digest, _, body = content.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        return Damage(MANIFEST_FILE, "is not as it was saved")
    return {name: Entry(*entry) for name, entry in json.loads(body).items()}


def _problem(path: Path, expected: Entry, *, is_deep: bool) -> str | None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            return "is no plain file"
        if status.st_size != expected.size:
            return f"has {status.st_size:,} bytes instead of {expected.size:,}"
        if (is_deep or expected.size <= _SMALL) and _entry(path) != expected:
            return "has other content than was saved"
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    return None


def _entry(path: Path) -> Entry:
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry(os.fstat(file.fileno()).st_size, digest)


def _raise(error: OSError) -> None:
    raise error
