"""How a step's folder becomes a checkpoint: complete, listed in a manifest, renamed at last.

Orbax writes into a folder of a temporary name and renames it when all is there. Here the folder
gets another temporary name in between, under which the manifest is added. So a folder named by a
step has a manifest, whatever kills the save. A rename is what makes a checkpoint on local disks
and on mounted ones, which are all that a run folder can be on.

Each attempt to save a step has a name of its own: of an attempt that failed some writes may still
be under way, and they must not reach into the next one.
"""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxllm.checkpoints.manifest import Entry, digests, files_under, write_manifest

TEMPORARY = ".orbax-checkpoint-tmp"  # in the name of everything that is not complete
_SEALED = "-sealed"


def temporary_name(step: int, attempt: int) -> str:
    """The folder of a step before it is complete."""
    return f"{step}{TEMPORARY}-{attempt}"


def temporary_path_class(attempt: Callable[[], int]) -> type:
    """The class by which Orbax makes, names and completes the folder of a step.

    attempt: the number of the save under way, the same on every process.
    """
    from orbax.checkpoint.path import atomicity

    class WithManifest(atomicity.AtomicRenameTemporaryPath):
        """Adds the manifest to a step's folder, and nothing to those of its items."""

        @classmethod
        def from_final(cls, final_path: Any, **options: Any) -> Any:
            made = super().from_final(final_path, **options)
            if final_path.name.isdigit():
                name = temporary_name(int(final_path.name), attempt())
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
            await asyncio.to_thread(_seal, Path(sealed))
            await asyncio.to_thread(sealed.rename, final)

    return WithManifest


def digest_own_files(temporary: Path) -> None:
    """Compute, on one of several processes, the digests of the arrays that it has written.

    temporary: the folder of the save under way. The digests lie in it until the first process
    makes the manifest: it need not read back what others wrote.
    """
    rank = jax.process_index()
    own = [
        name for name in files_under(temporary) if f"ocdbt.process_{rank}" in Path(name).parts[:-1]
    ]
    entries = digests(temporary, own)
    listed = {
        name.replace(TEMPORARY, ""): (*entry, (temporary / name).stat().st_mtime_ns)
        for name, entry in entries.items()
    }
    _digest_file(temporary, rank).write_text(json.dumps(listed), encoding="utf-8")


def remove_temporary(folder: Path, step: int | None = None) -> None:
    """Remove what saves that failed left behind: of one step, or of all.

    What cannot be removed now is no checkpoint by its name, and the next start tries again.
    """
    for path in folder.glob(f"{'*' if step is None else step}{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _seal(folder: Path) -> None:
    known: dict[str, Entry] = {}
    for rank in range(jax.process_count() if jax.process_count() > 1 else 0):
        file = _digest_file(folder, rank)
        for name, (size, sha256, modified) in json.loads(file.read_text("utf-8")).items():
            # Merging the arrays' indices leaves the data alone; should it not, it is read here.
            path = folder / name
            if path.exists() and path.stat().st_mtime_ns == modified:
                known[name] = Entry(size, sha256)
        file.unlink()
    write_manifest(folder, known)


def _digest_file(folder: Path, rank: int) -> Path:
    return folder / f"digests.process_{rank}.json"
