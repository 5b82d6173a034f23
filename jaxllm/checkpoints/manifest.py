"""What a checkpoint holds, file by file, so that a changed bit is found before it is used.

The file MANIFEST of a step's folder lists every other file under it. Line 1 is the SHA-256 of all
that follows, which is JSON: {path: [bytes, SHA-256]}. Orbax and TensorStore restore flipped bits
without a word.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from jaxllm.checkpoints.folders import Folder, folder_of

MANIFEST_FILE = "MANIFEST"
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
    content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    folder_of(folder).write(MANIFEST_FILE, content)


def files_under(folder: Path) -> list[str]:
    """The path of every file under a folder, relative to it, sorted."""
    return folder_of(folder).names()


def digests(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """Size and SHA-256 of files, read by several threads."""
    names, files = list(names), folder_of(folder)
    with ThreadPoolExecutor(files.num_readers) as pool:
        return dict(zip(names, pool.map(lambda name: _entry(files, name), names), strict=True))


def find_damage(
    folder: Path, *, share: int = 0, shares: int = 1, is_deep: bool = True
) -> Damage | None:
    """The first file that is not as it was saved; None for a folder that is as the manifest says.

    Looks at the files number share, share + shares, ... alone. Not `is_deep`: of large files only
    the size counts. Files that the manifest does not name are not looked at, and nothing reads
    them. OSError for what the system refuses to read: that is no damage yet.
    """
    files = folder_of(folder)
    entries = _read_manifest(files)
    if isinstance(entries, Damage):
        return entries

    def look(name: str) -> Damage | None:
        problem = _problem(files, name, entries[name], is_deep=is_deep)
        return None if problem is None else Damage(name, problem)

    with ThreadPoolExecutor(files.num_readers) as pool:
        found = pool.map(look, sorted(entries)[share::shares])
        return next((damage for damage in found if damage is not None), None)


def _read_manifest(folder: Folder) -> dict[str, Entry] | Damage:
    try:
        content = folder.read(MANIFEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return Damage(MANIFEST_FILE, f"{_MISSING}; the rest is not complete, or half gone")
    digest, _, body = content.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        return Damage(MANIFEST_FILE, "is not as it was saved")
    return {name: Entry(*entry) for name, entry in json.loads(body).items()}


def _problem(folder: Folder, name: str, expected: Entry, *, is_deep: bool) -> str | None:
    try:
        size = folder.size(name)
        if size is None:
            return "is no plain file"
        if size != expected.size:
            return f"has {size:,} bytes instead of {expected.size:,}"
        if (is_deep or expected.size <= _SMALL) and _entry(folder, name) != expected:
            return "has other content than was saved"
    except (FileNotFoundError, NotADirectoryError):
        return _MISSING
    return None


def _entry(folder: Folder, name: str) -> Entry:
    return Entry(*folder.digest(name))
