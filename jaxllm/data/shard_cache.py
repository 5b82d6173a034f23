"""A tokenised dataset in a bucket, read through a folder of this machine.

    $XDG_CACHE_HOME/jaxllm/datasets/NAME-KEY/     KEY is the hash of the sidecar

The folder holds the dataset's tokenizer and its shards, each fetched whole when it is first needed.
Later starts and the other processes of this machine find it there. Another dataset under the same
address has another sidecar, and so another folder.
"""

import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxllm.containment import contained
from jaxllm.data.dataset_folder import TOKENIZER_FOLDER, DatasetCard, read_card
from jaxllm.data.remote_files import fetch_file, fetch_folder, folder_sizes
from jaxllm.data.whole_files import replaced_folder
from jaxllm.storage import as_path, text_of
from jaxllm.storage.cache import cache_folder

FETCHES = 8  # shards at a time: few enough for the memory and sockets of a host


class ShardCache:
    """The local copy of one dataset; safe to use from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        """Fetches the sidecar. Raises ValueError or OSError when there is none to be had."""
        self._remote = as_path(folder)
        self.card: DatasetCard = read_card(self._remote)
        self.folder = cached_at(self.card)
        self._fetching = threading.Lock()
        self._here: set[str] = set()

    def check(self, split: str) -> None:
        """Raises ValueError unless every shard of a split is in the bucket with its right size."""
        found = folder_sizes(self._remote)
        card = self.card.splits[split]
        for name, size in zip(card.shards, card.shard_bytes, strict=True):
            if found.get(name) != size:
                has = f"has {found[name]} bytes" if name in found else "is missing"
                raise ValueError(
                    f"shard {text_of(self._remote)}/{name} {has}, where the sidecar says {size} "
                    f"bytes; send the dataset's folder there again"
                )

    def tokenizer(self) -> Path:
        """The folder of the dataset's tokenizer, fetched."""
        folder = self.folder / TOKENIZER_FOLDER
        if not folder.is_dir():
            with replaced_folder(folder) as fetched:
                fetch_folder(self._remote / TOKENIZER_FOLDER, fetched)
        return folder

    def path(self, name: str) -> Path:
        """Where a shard is, once it is fetched."""
        return contained(self.folder, name)

    def fetch(self, shards: Iterable[tuple[str, int]]) -> None:
        """Brings shards here, given by name and bytes, a few at a time; nothing for those here.

        Raises ValueError for a shard of another size, OSError for the network or a full disk.
        """
        missing = [shard for shard in shards if shard[0] not in self._here]
        if not missing:
            return
        with self._fetching:  # one thread fetches; what the next wants is then often here
            missing = [shard for shard in missing if shard[0] not in self._here]
            with ThreadPoolExecutor(FETCHES, "shards") as pool:
                list(pool.map(lambda shard: self._fetch(*shard), missing))
            self._here.update(name for name, _ in missing)

    def _fetch(self, name: str, size: int) -> None:
        target = self.path(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{name}.partial")
        while not _is_complete(target, size):
            with partial.open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Whoever held the lock before may have given the file its name, or removed it.
                if not _is_same(lock.fileno(), partial):
                    continue
                self._copy(name, partial)
                found = partial.stat().st_size
                if found != size:
                    partial.unlink()
                    raise ValueError(
                        f"shard {text_of(self._remote)}/{name} has {found} bytes instead of "
                        f"{size}; send the dataset's folder there again"
                    )
                partial.rename(target)

    def _copy(self, name: str, target: Path) -> None:
        try:
            fetch_file(self._remote / name, target)
        except OSError as error:
            raise OSError(
                f"{text_of(self._remote)}/{name} could not be brought to {self.folder}: {error}; "
                f"what is there is kept, so run again (XDG_CACHE_HOME names another place)"
            ) from error


def cached_at(card: DatasetCard) -> Path:
    """The folder of this machine for a dataset, wherever it came from."""
    key = hashlib.sha256(card.model_dump_json().encode()).hexdigest()
    return contained(cache_folder() / "datasets", f"{card.name}-{key[:16]}")


def adopt(folder: Path, card: DatasetCard) -> None:
    """Makes a dataset of this machine, which a bucket has too, the local copy of that."""
    place = cached_at(card)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        shutil.rmtree(folder)
    else:
        folder.rename(place)


def tokenizer_folder(dataset: Path | str) -> Path:
    """The folder of a dataset's tokenizer on this machine."""
    folder = as_path(dataset)
    return folder / TOKENIZER_FOLDER if isinstance(folder, Path) else ShardCache(folder).tokenizer()


def _is_complete(path: Path, size: int) -> bool:
    """Whether a shard is here; one of another size was damaged, and is removed."""
    try:
        if path.stat().st_size == size:
            return True
    except FileNotFoundError:
        return False
    path.unlink(missing_ok=True)
    return False


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
