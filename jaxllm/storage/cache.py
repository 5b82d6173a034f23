"""The user's cache folder, for copies that can be made again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """jaxllm's folder of the user's cache: under XDG_CACHE_HOME, or under ~/.cache."""
    # By the XDG base directory specification a relative path there is ignored.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "jaxllm"
