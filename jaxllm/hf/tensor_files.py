"""Weights on disk in the safetensors format, read where they lie.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype,
shape, first and last byte of the data) and the data, row-major. It is mapped rather than read, so
that a host touches only the parts of a tensor that it needs.
Source: the format's own description, https://github.com/huggingface/safetensors.
"""

import json
import math
import os
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxllm.containment import contained

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
}
_WEIGHTS = ("F64", "F32", "F16", "BF16")
_MAX_HEADER = 100 * 2**20  # the format's own limit


class Entry(NamedTuple):
    """Where a tensor lies. start: its first byte in the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as a weight, if it cannot."""
        if not self.dtype.startswith(("F", "BF")):
            return f"holds whole numbers ({self.dtype}), quantised in a way that is not read"
        if self.dtype not in _WEIGHTS:
            return f"of {self.dtype}; without scales only {', '.join(_WEIGHTS)} are read"
        return None

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor, mapped: one slice for each dimension."""
        region: tuple[Any, ...] = (..., *box)  # the dots keep a tensor without dimensions one
        return self.array()[region]

    def array(self) -> np.ndarray:
        """The tensor, mapped. ValueError for a dtype that numpy has no word for."""
        if self.dtype not in DTYPES:
            raise ValueError(
                f"{self.file} has tensors of {self.dtype}; only {', '.join(DTYPES)} are read, so "
                "convert the checkpoint first"
            )
        dtype = np.dtype(DTYPES[self.dtype])
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        return np.memmap(self.file, dtype, mode="r", offset=self.start, shape=self.shape)


def read_folder(folder: Path) -> dict[str, Entry]:
    """Every tensor of a folder's model by name, from one file or an index of several.

    ValueError for a folder without any, an index that names a missing file, or a broken file.
    """
    index, single = contained(folder, INDEX), contained(folder, SINGLE)
    # A folder that has both means the one file: transformers opens that one, and an index beside
    # it is left from a save in several files whose shards may be gone or older.
    if single.is_file():
        return read_file(single)
    if not index.is_file():
        raise ValueError(_why_none(folder))
    named = _read_index(index)
    files = {name: contained(folder, name) for name in sorted(set(named.values()))}
    # Not Path.is_file, which raises OSError for a name that is too long.
    missing = [name for name, file in files.items() if not os.path.isfile(file)]
    if missing:
        raise ValueError(
            f"{index} names files that are not there: {', '.join(missing)}; get them too"
        )
    entries = {name: read_file(file) for name, file in files.items()}
    absent = [tensor for tensor, name in named.items() if tensor not in entries[name]]
    if absent:
        raise ValueError(
            f"{index} puts tensors in files that do not have them: {', '.join(absent[:8])}"
        )
    return {tensor: entries[name][tensor] for tensor, name in named.items()}


def read_file(file: Path) -> dict[str, Entry]:
    """The tensors of one file. ValueError if it is truncated, damaged, or no such file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError(f"{file} is truncated or no safetensors file: it has {size} bytes")
        header = _parse(opened.read(length), f"{file} is no safetensors file: its header")
    header.pop("__metadata__", None)
    data = 8 + length
    ranges = {name: _range(file, name, entry) for name, entry in header.items()}
    _check_ranges(file, ranges, data=data, size=size)
    return {
        name: Entry(file, entry["dtype"], tuple(entry["shape"]), data + ranges[name][0])
        for name, entry in header.items()
    }


def _read_index(index: Path) -> dict[str, str]:
    """The name of the file of each tensor. ValueError for an index that does not say it."""
    named = _parse(index.read_bytes(), str(index)).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(
            f"{index} is damaged: its weight_map must give each tensor the name of a file, and is "
            f"{reprlib.repr(named)}; get it anew"
        )
    return named


def _parse(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object that `name` is. ValueError for anything else, and for keys that are twice."""
    repeated: list[str] = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            repeated.extend(key for key, times in Counter(k for k, _ in pairs).items() if times > 1)
        return found

    try:
        value = json.loads(content, object_pairs_hook=to_dict)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}, not an object")
    if repeated:
        # Readers differ in which of the two they take.
        raise ValueError(f"{name} has the same name twice: {', '.join(repeated[:8])}")
    return value


def _range(file: Path, name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor lies in the data, by its entry of the header. ValueError for a broken one."""
    given: dict[str, Any] = entry if isinstance(entry, dict) else {}
    values: list[Any] = [given.get(key) for key in ("dtype", "shape", "data_offsets")]
    dtype, shape, offsets = values
    is_whole = isinstance(dtype, str) and _are_sizes(shape) and _are_sizes(offsets)
    if not is_whole or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(
            f"{file} is damaged: its header says of {name} {reprlib.repr(entry)}, and must give a "
            "dtype, a shape, and data_offsets that do not fall; get it anew"
        )
    first, last = offsets
    # Types that are not known here are refused when they are read.
    if dtype in DTYPES:
        expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        if last - first != expected:
            raise ValueError(
                f"{file} is damaged: {name} of {dtype} and shape {reprlib.repr(shape)} needs "
                f"{expected} bytes and has {last - first}; get it anew"
            )
    return first, last


def _are_sizes(values: Any) -> bool:
    """Whether a JSON value is a list of whole numbers that are not negative."""
    return isinstance(values, list) and all(type(n) is int and n >= 0 for n in values)


def _check_ranges(file: Path, ranges: dict[str, tuple[int, int]], *, data: int, size: int) -> None:
    """ValueError unless each byte of the data is of one tensor, as the format demands.

    data: the first byte of the data. size: how many bytes the file has.
    """
    at, before = 0, "the header"
    for name, (first, last) in sorted(ranges.items(), key=lambda item: item[1]):
        if data + last > size:
            raise ValueError(
                f"{file} is truncated: {name} ends at byte {data + last} of {size}; get it anew"
            )
        if first != at:
            what = "overlap" if first < at else f"have {first - at} bytes between that are of none"
            raise ValueError(f"{file} is damaged: {before} and {name} {what}; get it anew")
        at, before = last, name
    if data + at != size:
        raise ValueError(
            f"{file} is damaged: {size - data - at} bytes behind {before} are of no tensor; "
            "get it anew"
        )


def _why_none(folder: Path) -> str:
    pickled = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt")
        for path in folder.glob(pattern)
    )
    if pickled:
        return (
            f"{folder} has only pickled weights ({', '.join(pickled[:3])}), which can run any "
            "program when they are opened; convert them to safetensors first"
        )
    return f"{folder} has no weights: neither {SINGLE} nor {INDEX}"
