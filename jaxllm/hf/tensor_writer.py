"""Weights written in the safetensors format as they come, in one file or several.

The format is that of `tensor_files`, which reads it.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.hf.tensor_files import DTYPES, INDEX, SINGLE

_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


class Tensor(NamedTuple):
    """A tensor to write. make: computes it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_folder(
    folder: Path,
    tensors: Iterable[Tensor],
    *,
    dtype: np.dtype,
    max_shard_bytes: int = 5 * 10**9,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write tensors in one file, or in several of about `max_shard_bytes` with an index.

    One tensor at a time is in memory. on_progress: called with the bytes of each.
    """
    shards = _shards(tensors, dtype.itemsize, max_shard_bytes)
    for number, shard in enumerate(shards, start=1):
        write_file(folder / _shard_name(number, len(shards)), shard, dtype, on_progress)
    if len(shards) > 1:
        named = {
            tensor.name: _shard_name(number, len(shards))
            for number, shard in enumerate(shards, start=1)
            for tensor in shard
        }
        total = sum(_size(tensor, dtype.itemsize) for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": named}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Iterable[Tensor], itemsize: int, limit: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    room = limit
    for tensor in tensors:
        size = _size(tensor, itemsize)
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards


def _size(tensor: Tensor, itemsize: int) -> int:
    return int(np.prod(tensor.shape)) * itemsize


def _shard_name(number: int, total: int) -> str:
    return SINGLE if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"


def write_file(
    file: Path,
    tensors: list[Tensor],
    dtype: np.dtype,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write tensors in one file, which gets its name when all of it is on the disk."""
    # Readers in other languages check the key; the data begin at a multiple of 8 bytes.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        end = at + _size(tensor, dtype.itemsize)
        header[tensor.name] = {
            "dtype": _NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            array = np.asarray(tensor.make(), dtype, order="C")  # without a new dimension
            assert array.shape == tensor.shape, (tensor.name, array.shape)
            opened.write(array.tobytes())
            if on_progress is not None:
                on_progress(array.nbytes)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(partial, file)
