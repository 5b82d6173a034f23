"""A local folder that is made in whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxllm.storage import is_remote, text_of


def check_local(path: Path) -> None:
    """ValueError for a path in a bucket: what is converted is on this machine."""
    if is_remote(path):
        raise ValueError(
            f"{text_of(path)}: an import and an export read and write local folders; give one, and "
            "copy it with `gcloud storage cp -r`"
        )


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial")


def remove_partial(out: Path) -> None:
    """Remove what a call for the same folder left that was killed."""
    shutil.rmtree(_partial(out), ignore_errors=True)


@contextmanager
def complete_or_none(out: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when all is in it; of an interruption nothing stays."""
    remove_partial(out)
    partial = _partial(out)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.is_dir():
            out.rmdir()  # an empty one, which may be there
        partial.rename(out)
    finally:
        remove_partial(out)
