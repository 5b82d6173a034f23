"""Paths into installed Python packages, which are not imported: `package://NAME/PATH`."""

import importlib.util
from pathlib import Path

SCHEME = "package://"


def located(path: str) -> Path:
    """Where a path leads, with `~` and `package://NAME/PATH` resolved.

    ValueError for a package that is not installed.
    """
    if not path.startswith(SCHEME):
        return Path(path).expanduser()
    name, _, inside = path.removeprefix(SCHEME).partition("/")
    return package_folder(name, path) / inside


def package_folder(name: str, path: str) -> Path:
    """The folder of an installed package. ValueError, naming the path, if there is none."""
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{path!r} names the Python package {name!r}, which is not installed; install it, "
            "or give other files"
        )
    return Path(next(iter(spec.submodule_search_locations)))
