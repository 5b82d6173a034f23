"""The parts of a GGUF file: its metadata, and the tensors, decoded to float32 where they lie.

Numbers are little-endian and texts have their length (8 bytes) before them. The magic `GGUF`, the
version (4 bytes) and how many tensors and keys there are (8 bytes each); the keys: name, type,
value; the tensors: name, dimensions with the fastest first, type, offset of the data, which begin
at the next multiple of `general.alignment`. Blocks of quantised numbers are decoded by the package
gguf, of the authors of llama.cpp; plain numbers need no package.
Source: the format's own description, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import math
import mmap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4  # the format's own limit
TEXT, ARRAY, FLOAT32 = 8, 9, 6
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4"}
NUMBERS |= {FLOAT32: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
PLAIN: dict[int, np.dtype] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    30: np.dtype(ml_dtypes.bfloat16),
}


class StoredTensor(NamedTuple):
    """Where a tensor lies. kind: the number of its type. start: its first byte in the file."""

    file: Path
    kind: int
    shape: tuple[int, ...]
    start: int

    def array(self) -> np.ndarray:
        """The tensor, float32."""
        return self.read((slice(None),) * len(self.shape))

    def read(self, box: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor, float32: one slice for each dimension.

        Blocks lie along the last dimension, and only those with something of the part are decoded.
        """
        if self.kind in PLAIN:
            mapped = np.memmap(self.file, PLAIN[self.kind], "r", self.start, self.shape)
            return np.asarray(mapped[box], np.float32)
        *outer, length = self.shape
        blocks = _blocks(self.kind)
        row = length // blocks.length * blocks.size
        mapped = np.memmap(self.file, np.uint8, "r", self.start, (*outer, row))
        first, last, _ = box[-1].indices(length)
        begin, end = first // blocks.length, -(-last // blocks.length)
        part = mapped[(*box[:-1], slice(begin * blocks.size, end * blocks.size))]
        decoded = _decode(part, self.kind)
        return decoded[..., first - begin * blocks.length : last - begin * blocks.length]


def _decode(rows: np.ndarray, kind: int) -> np.ndarray:
    """The numbers of rows of blocks, given as bytes (..., row); float32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    blocks = _blocks(kind)
    num_blocks = rows.size // blocks.size
    # The package decodes sixteen rows at a time, which takes long where rows are short: blocks
    # know nothing of rows, so they are put in rows of a size that is quick.
    row = next(number for number in range(128, 0, -1) if num_blocks % number == 0)
    long = np.ascontiguousarray(rows).reshape(-1, row * blocks.size)
    numbers = dequantize(long, GGMLQuantizationType(kind))
    return numbers.reshape(*rows.shape[:-1], -1)


class GgufFile(NamedTuple):
    """What a file says and holds. Of the metadata, arrays of numbers are numpy's."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


def read_gguf(path: Path) -> GgufFile:
    """The metadata and the tensors of a file, whose data are not read yet.

    ValueError for a file of another kind or version, a part of several, one that is truncated, and
    for types of numbers that cannot be decoded.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a .gguf file")
    size = path.stat().st_size
    with path.open("rb") as opened:
        if opened.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        opened.seek(0)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            cursor = _Cursor(path, content)
            num_tensors, num_keys = _read_counts(cursor)
            metadata: dict[str, Any] = {}
            for _ in range(num_keys):
                key = cursor.text()
                metadata[key] = cursor.value(cursor.number("<u4"))
            places = dict(_read_place(cursor) for _ in range(num_tensors))
    if metadata.get("split.count", 1) > 1:
        raise ValueError(
            f"{path} is one of {metadata['split.count']} parts; put them together with "
            "`llama-gguf-split --merge`"
        )
    if len(places) < num_tensors:
        raise ValueError(f"{path} is damaged: of its {num_tensors} tensors some have the same name")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"{path} is damaged: general.alignment is {alignment!r}")
    data = -(-cursor.at // alignment) * alignment
    tensors = {name: place._replace(start=data + place.start) for name, place in places.items()}
    for name, tensor in tensors.items():
        _check(name, tensor, size)
    return GgufFile(path, metadata, tensors)


class _Cursor:
    """Reads the header from its begin. ValueError where it ends too early."""

    def __init__(self, path: Path, content: mmap.mmap):
        self.path = path
        self.at = 0
        self._content = content

    def take(self, size: int) -> bytes:
        first, self.at = self.at, self.at + size
        if self.at > len(self._content):
            raise ValueError(
                f"{self.path} is truncated: its header goes on behind byte {len(self._content)}; "
                "get it anew"
            )
        return self._content[first : self.at]

    def number(self, dtype: str) -> Any:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0].item()

    def text(self) -> str:
        length = int.from_bytes(self.take(8), "little")
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error

    def value(self, kind: int) -> Any:
        if kind == ARRAY:
            kind, length = self.number("<u4"), self.number("<u8")
            if kind == TEXT:
                return [self.text() for _ in range(length)]
            dtype = np.dtype(self._dtype(kind))
            return np.frombuffer(self.take(length * dtype.itemsize), dtype)
        if kind == TEXT:
            return self.text()
        value = self.number(self._dtype(kind))
        # 1e-05 rather than the 9.999999747378752e-06 that the nearest float32 is.
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def _dtype(self, kind: int) -> str:
        if kind not in NUMBERS:
            raise ValueError(f"{self.path} is damaged: its metadata have values of type {kind}")
        return NUMBERS[kind]


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """How many tensors and keys there are, behind the magic and the version."""
    cursor.take(len(MAGIC))
    version = cursor.number("<u4")
    if version & 0xFFFF == 0:
        raise ValueError(f"{cursor.path} is big-endian, which is not read; convert the model anew")
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise ValueError(
            f"{cursor.path} is of version {version} of GGUF, and {known} are read; "
            "convert the model anew"
        )
    return cursor.number("<u8"), cursor.number("<u8")


def _read_place(cursor: _Cursor) -> tuple[str, StoredTensor]:
    """The name of a tensor, and where it lies, from the first byte of the data on."""
    name, count = cursor.text(), cursor.number("<u4")
    if not 1 <= count <= MAX_DIMENSIONS:
        raise ValueError(f"{cursor.path} is damaged: {name} has {count} dimensions")
    shape = tuple(cursor.number("<u8") for _ in range(count))[::-1]
    kind, start = cursor.number("<u4"), cursor.number("<u8")
    return name, StoredTensor(cursor.path, kind, shape, start)


class _Blocks(NamedTuple):
    """A type of quantised numbers: how many are one block, and its bytes."""

    name: str
    length: int
    size: int
    is_decoded: bool


@cache
def _blocks(kind: int) -> _Blocks:
    """What the package gguf knows of a type. ImportError without it, ValueError if unknown."""
    import gguf
    from gguf.quants import dequantize

    found = gguf.GGMLQuantizationType(kind)
    length, size = gguf.GGML_QUANT_SIZES[found]
    try:
        dequantize(np.zeros((1, size), np.uint8), found)
    except NotImplementedError:
        return _Blocks(found.name, length, size, is_decoded=False)
    return _Blocks(found.name, length, size, is_decoded=True)


def _check(name: str, tensor: StoredTensor, file_size: int) -> None:
    """ValueError unless a tensor can be decoded, and lies in the file as a whole."""
    if tensor.kind in PLAIN:
        length, size = 1, PLAIN[tensor.kind].itemsize
    else:
        blocks = _known_blocks(name, tensor)
        length, size = blocks.length, blocks.size
    if tensor.shape[-1] % length or 0 in tensor.shape:
        raise ValueError(f"{tensor.file} is damaged: {name} has the shape {tensor.shape}")
    last = tensor.start + math.prod(tensor.shape) // length * size
    if last > file_size:
        raise ValueError(
            f"{tensor.file} is truncated: {name} ends at byte {last} of {file_size}; get it anew"
        )


def _known_blocks(name: str, tensor: StoredTensor) -> _Blocks:
    try:
        blocks = _blocks(tensor.kind)
    except ImportError as error:
        raise ValueError(
            f"{tensor.file} has quantised weights, which the package gguf decodes; "
            "pip install 'jaxllm[gguf]'"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{tensor.file}: {name} is of type {tensor.kind}, which the package gguf does not "
            "know; update it, or convert the model to F16 or Q8_0"
        ) from error
    if not blocks.is_decoded:
        raise ValueError(
            f"{tensor.file}: {name} is of {blocks.name}, which the package gguf does not decode; "
            "convert the model to F16 or Q8_0"
        )
    return blocks
