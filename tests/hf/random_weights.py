"""Weights that a few numbers describe, so that no weights need to be recorded.

A manifest says for each tensor, by its name on disk, its shape and its distribution; the values
follow from the name alone. The recorded answers of tests/golden/hf belong to weights made so, by
one interpreter with torch and by another with jax: numpy and the standard library only.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Manifest = Mapping[str, Mapping[str, Any]]


def fill(manifest: Manifest) -> dict[str, np.ndarray]:
    """Name -> float32 values: center + std * normal noise, seeded by the tensor's name.

    manifest: name -> {"shape": [...], "center": 0 or 1, "std": float}.
    """
    return {name: _values(name, **entry) for name, entry in manifest.items()}


def write_safetensors(path: Path | str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors as transformers does; it asks for the format in the file's metadata."""
    # Not above: whoever only fills a manifest needs no more than numpy.
    from safetensors.numpy import save_file

    save_file(dict(tensors), str(path), metadata={"format": "pt"})


def _values(name: str, shape: list[int], center: float, std: float) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode("utf-8")))
    # An array even for a tensor without dimensions, for which numpy would give a plain float.
    return np.asarray(center + std * random.standard_normal(shape), dtype=np.float32)
