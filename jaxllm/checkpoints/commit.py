"""What is done to a step's files before they are a checkpoint: digests and the manifest.

The manifest is the last thing written before that which makes the files a checkpoint, see
`jaxllm.checkpoints.folders`. So a checkpoint has a manifest, whatever kills the save.
"""

import json
from collections.abc import Callable
from pathlib import Path

import jax

from jaxllm.checkpoints.disk_folder import TEMPORARY
from jaxllm.checkpoints.folders import folder_of
from jaxllm.checkpoints.manifest import Entry, digests, files_under, write_manifest


def temporary_path_class(folder: Path, attempt: Callable[[], int]) -> type:
    """The class by which Orbax makes, names and completes the folders of steps in a folder.

    attempt: the number of the save under way, the same on every process.
    """
    return folder_of(folder).temporary_path_class(attempt, lambda step: _seal(step))


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
    folder = folder_of(temporary)
    listed = {
        name.replace(TEMPORARY, ""): (*entry, folder.version(name))
        for name, entry in entries.items()
    }
    folder.write(_digest_file(rank), json.dumps(listed).encode())


def _seal(step: Path) -> None:
    known: dict[str, Entry] = {}
    folder = folder_of(step)
    for rank in range(jax.process_count() if jax.process_count() > 1 else 0):
        listed = json.loads(folder.read(_digest_file(rank)))
        for name, (size, sha256, version) in listed.items():
            # Merging the arrays' indices leaves the data alone; should it not, it is read here.
            if folder.version(name) == version:
                known[name] = Entry(size, sha256)
        folder.remove(_digest_file(rank))
    write_manifest(step, known)


def _digest_file(rank: int) -> str:
    return f"digests.process_{rank}.json"
