"""Files and folders that appear under their name only when they are complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jaxllm.data.remote_files import send_file, send_folder
from jaxllm.storage import is_remote


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A file of this machine to write, which is at `path` when all went well, and only then."""
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="jaxllm-") as folder:
            local = Path(folder) / path.name
            yield local
            send_file(local, path)
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that appears under its name only when it is complete and on disk."""
    with written(path) as temporary, temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def filled(folder: Path, *, last: str | None = None) -> Iterator[Path]:
    """A folder of this machine to write in; what is in it is in `folder` when all went well."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxllm-") as local:
        yield Path(local)
        send_folder(Path(local), folder, last=last)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A new folder of this machine to fill, which gets its name when all went well.

    It is removed again where another process was first.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        if not folder.is_dir():
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
