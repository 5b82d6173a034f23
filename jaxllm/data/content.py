"""Files by their content: hashes, and writes that happen in full or not at all."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from jaxllm.data.remote_files import checksums, read_file
from jaxllm.storage import is_remote


def content_hashes(files: Iterable[Path], *, cache: Path) -> dict[str, str]:
    """The sha256 of each file, by path; of a file in a bucket, the checksum that is known there.

    `cache` remembers hashes by path, size and modification time, so that an unchanged corpus
    is not read again.
    """
    files = list(files)
    known: dict[str, str] = json.loads(cache.read_text()) if cache.exists() else {}
    remote = dict(_remote_hashes([path for path in files if is_remote(path)]))
    hashes: dict[str, str] = {}
    fresh: dict[str, str] = {}
    for path in files:
        if str(path) in remote:
            hashes[str(path)] = remote[str(path)]
            continue
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            known[key] = fresh[key] = file_hash(path)
        hashes[str(path)] = known[key]
    if fresh:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, json.dumps(known, indent=0, sort_keys=True))
    return hashes


def _remote_hashes(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    for path, checksum in zip(files, checksums(files), strict=True):
        yield str(path), checksum or hashlib.sha256(read_file(path)).hexdigest()


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either there in full or not at all, even after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
