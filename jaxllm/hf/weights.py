"""Weights between a checkpoint of theirs and the nested dicts of ours, by a family's table."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from jaxllm.hf.base import Row
from jaxllm.hf.tensor_writer import Tensor
from jaxllm.hf.view import Index, View, view
from jaxllm.nn.param import Nested
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import weight_items

Progress = Callable[[int], None]
Convert = Callable[[str, jax.Array], Any]
FLOAT32 = np.dtype(np.float32)  # training keeps its weights so


def as_it_is(path: str, weight: jax.Array) -> Any:
    """The weight."""
    return weight


def rows_of(specs: Nested, rows: Sequence[Row]) -> dict[str, Row]:
    """The row of each of a model's weights, by dotted path."""
    by_path = {row.ours: row for row in rows}
    paths = [path for path, _ in weight_items(specs)]
    missing = [path for path in paths if path not in by_path]
    if missing:
        raise ValueError(
            f"the published family has no such weights: {', '.join(missing[:8])}; leave out the "
            "options of `model` that ask for them"
        )
    return {path: by_path[path] for path in paths}


class Stored(Protocol):
    """A tensor of theirs where it lies."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def problem(self) -> str | None:
        """Why it cannot be read as a weight, if it cannot."""

    def read(self, box: Index) -> np.ndarray:
        """A part of it: one slice for each dimension."""


def load(
    entries: Mapping[str, Stored],
    *,
    folder: Path,
    specs: Nested,
    rows: Sequence[Row],
    shardings: Nested | None = None,
    dtype: np.dtype = FLOAT32,
    ignored: Sequence[str] = (),
    on_progress: Progress | None = None,
    convert: Convert = as_it_is,
) -> Nested:
    """Our weights in `dtype`, each shard read from where it lies, where `shardings` say.

    entries: the tensors of `folder`. ignored: patterns of names that hold nothing of ours.
    on_progress: called with the bytes that were read. convert: what is made of each weight before
    the next is read, of its dotted path and itself. ValueError that lists every tensor that is
    missing, left over, of another shape, cannot be read, or has numbers that are not finite.
    """
    table = check(entries, folder=folder, specs=specs, rows=rows, ignored=ignored)
    reader = _Reader(entries, dtype, on_progress or (lambda num_bytes: None))

    def weight(path: tuple, spec: WeightSpec, sharding: Any) -> jax.Array:
        name = ".".join(str(key.key) for key in path)
        read = partial(reader.read, table[name], spec.shape)
        if sharding is None:
            return convert(name, jnp.asarray(read((slice(None),) * len(spec.shape))))
        return convert(name, _placed(read, spec.shape, sharding))

    if shardings is None:
        shardings = jax.tree.map(lambda spec: None, specs)
    params = jax.tree.map_with_path(weight, specs, shardings)
    if reader.not_finite:
        raise ValueError(
            f"{folder}: these tensors have numbers that are NaN, infinite or too large for "
            f"{dtype.name}: {_some(sorted(reader.not_finite))}; they are damaged, get them anew"
        )
    return params


def _placed(
    read: Callable[[Index], np.ndarray], shape: tuple[int, ...], sharding: Sharding
) -> jax.Array:
    """A weight on this process's devices; of its parts one at a time is in host memory.

    Devices that hold the same part share one reading of it.
    """
    indices = sharding.addressable_devices_indices_map(shape)
    sharing: dict[str, list[jax.Device]] = {}
    for device, index in indices.items():
        sharing.setdefault(str(index), []).append(device)
    arrays: list[jax.Array] = []
    for holders in sharing.values():
        part = read(indices[holders[0]])
        places = [SingleDeviceSharding(one, memory_kind=sharding.memory_kind) for one in holders]
        arrays += jax.block_until_ready([jax.device_put(part, place) for place in places])
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def num_bytes_read(shapes: Nested, shardings: Nested, *, dtype: np.dtype = FLOAT32) -> int:
    """The bytes of weights that this process reads, each part of them once: its progress in all.

    shapes: leaves with a shape, in the order of the shardings.
    """
    total = 0
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    for leaf, sharding in leaves:
        parts = set(map(str, sharding.addressable_devices_indices_map(leaf.shape).values()))
        total += len(parts) * math.prod(sharding.shard_shape(leaf.shape))
    return total * dtype.itemsize


class _Reader:
    """Reads parts of ours. not_finite: the names of theirs that had NaN or infinity in them."""

    def __init__(self, entries: Mapping[str, Stored], dtype: np.dtype, on_progress: Progress):
        self.not_finite: set[str] = set()
        self._entries = entries
        self._dtype = dtype
        self._on_progress = on_progress

    def read(self, row: Row, shape: tuple[int, ...], index: Index) -> np.ndarray:
        """The part at `index` of the weight of that row and shape."""
        stacked = row.num_stacked
        numbers = [
            range(*part.indices(size))
            for part, size in zip(index[:stacked], shape[:stacked], strict=True)
        ]
        inner, seen = shape[stacked:], view(row.notation)
        lead = tuple(len(along) for along in numbers)
        sizes = (range(*part.indices(n)) for part, n in zip(index[stacked:], inner, strict=True))
        result = np.empty((*lead, *map(len, sizes)), self._dtype)
        for at, place in zip(np.ndindex(*lead), itertools.product(*numbers), strict=True):
            name = row.name(place)
            with np.errstate(over="ignore"):  # what is too large is told below
                result[at] = seen.part(self._entries[name].read, inner, index[stacked:])
            if not np.isfinite(result[at]).all():
                self.not_finite.add(name)
        self._on_progress(result.nbytes)
        return result


def check(
    entries: Mapping[str, Stored],
    *,
    folder: Path,
    specs: Nested,
    rows: Sequence[Row],
    ignored: Sequence[str],
) -> dict[str, Row]:
    """The row of each weight; nothing is read. ValueError as `load`."""
    table = rows_of(specs, rows)
    expected = {name: shape for name, shape, _ in theirs_of(specs, table)}
    missing = [f"  {name}: missing" for name in expected if name not in entries]
    left_over = [
        f"  {name}: left over, of shape {entry.shape}"
        for name, entry in entries.items()
        if name not in expected and not any(re.fullmatch(pattern, name) for pattern in ignored)
    ]
    unequal = [
        f"  {name}: of shape {entries[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in entries and entries[name].shape != shape
    ]
    unreadable = [
        f"  {name}: {entries[name].problem}"
        for name in expected
        if name in entries and entries[name].problem
    ]
    problems = [*missing, *left_over, *unequal, *unreadable]
    if problems:
        shown = problems[:40] + ([f"  and {len(problems) - 40} more"] if problems[40:] else [])
        raise ValueError(
            f"{folder}: the tensors are not those that its config.json describes:\n"
            + "\n".join(shown)
        )
    return table


def _some(names: Sequence[str]) -> str:
    """The names, or of many the first."""
    return ", ".join([*names[:40], *([f"and {len(names) - 40} more"] if names[40:] else [])])


def theirs_of(
    specs: Nested, table: Mapping[str, Row]
) -> Iterator[tuple[str, tuple[int, ...], list[tuple[str, tuple[int, ...], View]]]]:
    """(name, shape, (path, numbers, view) of each part) of every tensor of theirs, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    parts: dict[str, list[tuple[str, tuple[int, ...], View]]] = {}
    for path, spec in weight_items(specs):
        row = table[path]
        lead, inner = spec.shape[: row.num_stacked], spec.shape[row.num_stacked :]
        seen = view(row.notation)
        shape = seen.shape(inner)
        for numbers in itertools.product(*(range(size) for size in lead)):
            name = row.name(numbers)
            assert shapes.setdefault(name, shape) == shape, (name, shapes[name], shape)
            parts.setdefault(name, []).append((path, numbers, seen))
    for name, shape in shapes.items():
        yield name, shape, parts[name]


def tensors(params: Nested, *, specs: Nested, rows: Sequence[Row]) -> list[Tensor]:
    """Ours as tensors of theirs, sorted by name; each is computed when it is written."""
    by_path = {
        ".".join(str(key.key) for key in path): leaf
        for path, leaf in jax.tree.flatten_with_path(params)[0]
    }

    def make(shape: tuple[int, ...], parts: list) -> Callable[[], np.ndarray]:
        def compute() -> np.ndarray:
            # Every number of theirs is one of ours: what no part fills would be noticed as NaN.
            theirs = np.full(shape, np.nan, np.float32)
            for path, numbers, seen in parts:
                seen.put(theirs, np.asarray(by_path[path][numbers], np.float32))
            return theirs

        return compute

    found = theirs_of(specs, rows_of(specs, rows))
    return sorted(Tensor(name, shape, make(shape, parts)) for name, shape, parts in found)
