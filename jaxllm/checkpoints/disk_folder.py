"""Checkpoints on a disk, local or mounted, where a rename makes one of what was written.

Orbax writes into a folder of a temporary name and renames it when all is there. Here the folder
gets another temporary name in between, under which the manifest is added. So a folder named by a
step has a manifest, whatever kills the save.

Each attempt to save a step has a name of its own: of an attempt that failed some writes may still
be under way, and they must not reach into the next one.
"""

import asyncio
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxllm.checkpoints.folders import QUARANTINE, Folder, quarantine_name

TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of everything that is not complete
_SEALED = "-sealed"


class DiskFolder(Folder):
    """A folder that can be renamed."""

    num_readers = 8  # hashlib lets go of the interpreter lock, and a network disk answers late

    def names(self) -> list[str]:
        return sorted(
            str((Path(root) / name).relative_to(self.path))
            for root, _, names in os.walk(self.path, onerror=_raise)
            for name in names
        )

    def size(self, name: str) -> int | None:
        status = (self.path / name).lstat()
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def version(self, name: str) -> int | None:
        path = self.path / name
        return path.stat().st_mtime_ns if path.exists() else None

    def digest(self, name: str) -> tuple[int, str]:
        with (self.path / name).open("rb", buffering=0) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return os.fstat(file.fileno()).st_size, digest

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with (self.path / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def steps(self) -> list[int]:
        if not self.path.is_dir():
            return []
        return sorted(int(path.name) for path in self.path.iterdir() if path.name.isdigit())

    def being_saved(self, step: int, attempt: int) -> Path:
        return self.path / f"{step}{TEMPORARY}-{attempt}"

    def remove_incomplete(self, step: int | None = None) -> None:
        for path in self.path.glob(f"{'*' if step is None else step}{TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)

    def discard(self, step: int) -> None:
        (self.path / str(step)).rename(self.path / f"{step}{TEMPORARY}")
        self.remove_incomplete(step)

    def set_aside(self, step: int) -> Path:
        quarantine = self.path / QUARANTINE
        quarantine.mkdir(exist_ok=True)
        target = quarantine / quarantine_name(step, os.listdir(quarantine))
        (self.path / str(step)).rename(target)
        return target

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def absolute_path(self) -> Path:
        return self.path.absolute()

    def temporary_path_class(
        self, attempt: Callable[[], int], seal: Callable[[Path], None]
    ) -> type:
        from orbax.checkpoint.path import atomicity

        being_saved = self.being_saved

        class WithManifest(atomicity.AtomicRenameTemporaryPath):
            """Adds the manifest to a step's folder, and nothing to those of its items."""

            @classmethod
            def from_final(cls, final_path: Any, **options: Any) -> Any:
                made = super().from_final(final_path, **options)
                if final_path.name.isdigit():
                    name = being_saved(int(final_path.name), attempt()).name
                    made._tmp_path = final_path.parent / name
                return made

            async def finalize(self) -> None:
                final = self.get_final()
                if not final.name.isdigit():
                    await super().finalize()
                    return
                sealed = self.get().parent / (self.get().name + _SEALED)
                self._final_path = sealed
                try:
                    await super().finalize()
                finally:
                    self._final_path = final
                await asyncio.to_thread(seal, Path(sealed))
                await asyncio.to_thread(sealed.rename, final)

        return WithManifest


def _raise(error: OSError) -> None:
    raise error
