"""Weights between a checkpoint of theirs and the nested dicts of ours, by a family's table."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.hf.base import Row
from jaxllm.hf.tensor_files import Entry, Tensor
from jaxllm.hf.view import View, view
from jaxllm.nn.param import Nested
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import weight_items

Progress = Callable[[int], None]
FLOAT32 = np.dtype(np.float32)  # training keeps its weights so


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


def load(
    entries: Mapping[str, Entry],
    *,
    folder: Path,
    specs: Nested,
    rows: Sequence[Row],
    shardings: Nested | None = None,
    dtype: np.dtype = FLOAT32,
    ignored: Sequence[str] = (),
    on_progress: Progress | None = None,
) -> Nested:
    """Our weights in `dtype`, each shard read from where it lies, where `shardings` say.

    entries: the tensors of `folder`. ignored: patterns of names that hold nothing of ours.
    on_progress: called with the bytes that were read. ValueError that lists every tensor that is
    missing, left over or of another shape.
    """
    table = check(entries, folder=folder, specs=specs, rows=rows, ignored=ignored)

    def weight(path: tuple, spec: WeightSpec, sharding: Any) -> jax.Array:
        row = table[".".join(str(key.key) for key in path)]

        parts: dict[str, np.ndarray] = {}  # devices may hold the same

        def read(index: tuple[slice, ...]) -> np.ndarray:
            if str(index) not in parts:
                part = parts[str(index)] = _read(entries, row, spec.shape, index, dtype)
                if on_progress is not None:
                    on_progress(part.nbytes)
            return parts[str(index)]

        if sharding is None:
            return jnp.asarray(read((slice(None),) * len(spec.shape)))
        return jax.make_array_from_callback(spec.shape, sharding, read)

    if shardings is None:
        return jax.tree.map_with_path(lambda path, spec: weight(path, spec, None), specs)
    return jax.tree.map_with_path(weight, specs, shardings)


def _read(
    entries: Mapping[str, Entry],
    row: Row,
    shape: tuple[int, ...],
    index: tuple[slice, ...],
    dtype: np.dtype,
) -> np.ndarray:
    """The part of one of ours at `index`."""
    stacked = row.num_stacked
    numbers = [
        range(*part.indices(size))
        for part, size in zip(index[:stacked], shape[:stacked], strict=True)
    ]
    inner = shape[stacked:]
    lead = tuple(len(along) for along in numbers)
    sizes = (range(*part.indices(n)) for part, n in zip(index[stacked:], inner, strict=True))
    result = np.empty((*lead, *map(len, sizes)), dtype)
    for at, place in zip(np.ndindex(*lead), itertools.product(*numbers), strict=True):
        entry = entries[row.name(place)]
        theirs = entry.array()
        if not entry.is_float:
            raise ValueError(
                f"{row.name(place)} holds whole numbers ({theirs.dtype}), so the weights are "
                "quantised in a way that is not read; get them in bfloat16 or float32"
            )
        result[at] = view(row.notation).take(theirs, inner)[index[stacked:]]
    return result


def check(
    entries: Mapping[str, Entry],
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
    problems = [*missing, *left_over, *unequal]
    if problems:
        shown = problems[:40] + ([f"  and {len(problems) - 40} more"] if problems[40:] else [])
        raise ValueError(
            f"{folder}: the tensors are not those that its config.json describes:\n"
            + "\n".join(shown)
        )
    return table


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
