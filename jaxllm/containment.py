"""Which files belong to a folder that comes from elsewhere: it must not name any other."""

import os
from pathlib import Path


def contained(folder: Path, name: str) -> Path:
    """The file of that name in a folder, whether there is one or not.

    ValueError if it would lie elsewhere, by `..` or by a link. The hub's cache links each file of
    a snapshot to the `blobs` beside all `snapshots`; only there such links are followed.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or "\0" in name:
        raise ValueError(
            f"{folder} names the file {name!r}, which is not inside of it; copy the file there and "
            "name it relative to the folder"
        )
    # realpath, as Path.resolve raises RuntimeError for links in a circle.
    real = Path(os.path.realpath(folder))
    target = Path(os.path.realpath(folder / name))
    allowed = [real]
    if real.parent.name == "snapshots":
        allowed.append(real.parents[1] / "blobs")
    if not any(target.is_relative_to(place) for place in allowed):
        raise ValueError(
            f"{folder / name} leads to {target}, outside of its folder; copy the file there"
        )
    return folder / name
