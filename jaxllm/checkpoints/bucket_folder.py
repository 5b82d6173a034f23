"""Checkpoints in a bucket of Google Cloud Storage, where one object makes what is there complete.

Nothing can be renamed: Orbax writes under the final name, and commit_success.txt is written last.
It is also what a deletion removes first. So a step that has it has a manifest and all that the
manifest names, whatever kills a save or a deletion.

An object is there as a whole or not at all, and once a request to write it has succeeded everybody
reads and lists it, for good (https://cloud.google.com/storage/docs/consistency). So there is
nothing to sync. A save of a step that failed before is under the same names; of that attempt some
writes may still be under way. They write the same arrays, under names of their own but for the
indices of TensorStore, which it replaces only where they are still what it has read.
"""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxllm.checkpoints.faults import numbered
from jaxllm.checkpoints.folders import QUARANTINE, Folder, quarantine_name

COMPLETE = "commit_success.txt"  # Orbax's own name for it
_PIECE = 16 << 20  # bytes that are read at a time; a request of its own for each


class BucketFolder(Folder):
    """A folder of objects. Sizes and versions are of one listing, made when first asked for."""

    num_readers = 16  # a request takes some tens of milliseconds, whatever it asks for

    def __init__(self, path: Path):
        import fsspec

        super().__init__(path)
        self._files = fsspec.filesystem("gcs")
        self._lock = threading.Lock()
        self._listing: dict[str, dict[str, Any]] | None = None

    def names(self) -> list[str]:
        return sorted(self._listed())

    def size(self, name: str) -> int:
        return self._named(name)["size"]

    def version(self, name: str) -> int | None:
        found = self._listed().get(name)
        # An object is never changed, but replaced by one of another generation.
        return None if found is None else int(found["generation"])

    @numbered()
    def digest(self, name: str) -> tuple[int, str]:
        size, digest = self.size(name), hashlib.sha256()
        for start in range(0, size, _PIECE):
            end = min(start + _PIECE, size)
            digest.update(self._files.cat_file(self._url(name), start=start, end=end))
        return size, digest.hexdigest()

    @numbered()
    def read(self, name: str) -> bytes:
        return self._files.cat_file(self._url(name))

    @numbered()
    def write(self, name: str, content: bytes) -> None:
        self._files.pipe_file(self._url(name), content)

    @numbered()
    def remove(self, name: str) -> None:
        # Nothing is found by a second try, where the answer to the first was lost.
        with suppress(FileNotFoundError):
            self._files.rm_file(self._url(name))

    def steps(self) -> list[int]:
        return [step for step, is_complete in self._steps().items() if is_complete]

    def being_saved(self, step: int, attempt: int) -> Path:
        return self.path / str(step)

    def remove_incomplete(self, step: int | None = None) -> None:
        with suppress(OSError):
            for there, is_complete in self._steps().items():
                if not is_complete and step in (None, there):
                    self._of(there).remove_all()

    def discard(self, step: int) -> None:
        self._of(step).remove(COMPLETE)
        self.remove_incomplete(step)

    @numbered()
    def set_aside(self, step: int) -> Path:
        # The run will save this step again, and needs its name. The service copies objects
        # without reading them where, as here, bucket and storage class stay.
        taken = [_last(path) for path in self._list(QUARANTINE)]
        target = self.path / QUARANTINE / quarantine_name(step, taken)
        source = self._of(step)
        names = source.names()
        self._files.copy([source._url(name) for name in names], [f"{target}/{n}" for n in names])
        source.remove_all()
        return target

    def free_bytes(self) -> None:
        return None

    @numbered()
    def remove_all(self) -> None:
        """Remove every object, the one that makes the rest a checkpoint first."""
        self.remove(COMPLETE)
        rest = [self._url(name) for name in self.names() if name != COMPLETE]
        if rest:
            with suppress(FileNotFoundError):
                self._files.rm(rest)

    def absolute_path(self) -> Path:
        return self.path

    def temporary_path_class(
        self, attempt: Callable[[], int], seal: Callable[[Path], None]
    ) -> type:
        from orbax.checkpoint._src.metadata.checkpoint import step_metadata_file_path
        from orbax.checkpoint._src.path import gcs_utils
        from orbax.checkpoint.path import atomicity

        # Orbax removes objects in any order, and asks for the kind of the bucket by another
        # library, which needs a right that writing objects does not: storage.buckets.get.
        assert hasattr(gcs_utils, "rmtree")
        gcs_utils.rmtree = _remove_tree

        class WithManifest(atomicity.CommitFileTemporaryPath):
            """Adds the manifest to a step's folder, and nothing to those of its items."""

            _checkpoint_metadata_store: Any

            async def finalize(self) -> None:
                final = self.get_final()
                if final.name.isdigit():
                    # What Orbax itself does first, so that nothing changes after the manifest.
                    store = self._checkpoint_metadata_store
                    self._checkpoint_metadata_store = None
                    await asyncio.to_thread(store.wait_until_finished)
                    file = step_metadata_file_path(final)
                    store.update(file_path=file, commit_timestamp_nsecs=time.time_ns())
                    await asyncio.to_thread(store.wait_until_finished)
                    await asyncio.to_thread(seal, final)
                await super().finalize()

        return WithManifest

    def manager_options(self) -> dict[str, Any]:
        from orbax.checkpoint.path import step as orbax_steps

        class Steps(orbax_steps.NameFormat):
            """Finds checkpoints as this folder does.

            Orbax's own way asks for the kind of the bucket first, and takes a folder that cannot
            be listed for one without checkpoints: a run would begin anew.
            """

            def build_name(self, step: int) -> str:
                return str(step)

            def find_all(self, base_path: Any) -> Iterator[Any]:
                for step in BucketFolder(base_path).steps():
                    yield orbax_steps.Metadata(step=step, path=base_path / str(step))

            def find_step(self, base_path: Any, step: int) -> Any:
                if not BucketFolder(base_path)._is_complete(step):
                    raise ValueError(f"{base_path} has no complete checkpoint of step {step}")
                return orbax_steps.Metadata(step=step, path=base_path / str(step))

        return {"step_name_format": Steps()}

    def _steps(self) -> dict[int, bool]:
        """Whether a step is complete, by step."""
        steps = sorted(int(name) for name in map(_last, self._list()) if name.isdigit())
        with ThreadPoolExecutor(self.num_readers) as pool:
            return dict(zip(steps, pool.map(self._is_complete, steps), strict=True))

    def _is_complete(self, step: int) -> bool:
        return COMPLETE in map(_last, self._list(str(step)))

    @numbered()
    def _list(self, name: str = "") -> list[str]:
        """What is right under a folder; nothing, where there is none."""
        try:
            return self._files.ls(self._url(name), detail=False)
        except FileNotFoundError:
            return []

    @numbered()
    def _listed(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            if self._listing is None:
                top = self._url("").removeprefix("gs://") + "/"
                found = self._files.find(str(self.path), detail=True)
                # Consoles make an empty object, of the folder's name and a slash, for a folder.
                self._listing = {
                    path.removeprefix(top): info
                    for path, info in found.items()
                    if path.startswith(top) and not path.endswith("/")
                }
            return self._listing

    def _named(self, name: str) -> dict[str, Any]:
        if name not in self._listed():
            raise FileNotFoundError(self._url(name))
        return self._listed()[name]

    def _of(self, step: int) -> "BucketFolder":
        return BucketFolder(self.path / str(step))

    def _url(self, name: str) -> str:
        return f"{self.path}/{name}".rstrip("/")


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _remove_tree(path: Path, *, missing_ok: bool = False) -> None:
    """In the place of Orbax's function of that name."""
    folder = BucketFolder(path)
    if not missing_ok and not folder.names():
        raise FileNotFoundError(str(path))
    folder.remove_all()
