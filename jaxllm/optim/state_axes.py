"""The logical axes of optimizer state, so that it is cut over the mesh like its weights.

Optax keeps, for each weight, arrays of the weight's shape, and Adafactor's rows and columns,
each of which lacks one dimension. The path of such an array ends with the path of its weight.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.tree_util import DictKey, GetAttrKey

from jaxllm.optim.base import Specs
from jaxllm.optim.stacked import stacking_depth
from jaxllm.parallel.axes import WeightSpec

Axes = tuple[str | None, ...]
Path = tuple[str, ...]

# State that belongs to no weight, such as Muon's coefficients, is tiny. Anything larger must
# have lost its weight, and would be replicated silently.
LARGEST_UNOWNED = 64


def state_axes(abstract_opt_state: Any, specs: Specs) -> Any:
    """The logical axes of each array of an optimizer's state; () for scalars.

    `abstract_opt_state` is the state as arrays or `jax.ShapeDtypeStruct`. The result has its
    structure, with a tuple (one entry a dimension, None where it has no name) in place of each
    array. As the state holds tuples too, map over both with the state first:
    `jax.tree.map(lambda leaf, axes: ..., abstract_opt_state, state_axes(...))`.
    """
    by_path = {_names(path): spec for path, spec in jax.tree.leaves_with_path(specs)}
    return jax.tree.map_with_path(
        lambda path, leaf: _leaf_axes(path, leaf.shape, by_path), abstract_opt_state
    )


def _leaf_axes(path: Any, shape: tuple[int, ...], by_path: dict[Path, WeightSpec]) -> Axes:
    if not shape:
        return ()
    spec = _owner(path, by_path)
    if spec is None:
        assert math.prod(shape) <= LARGEST_UNOWNED, f"{path}: state of no known weight: {shape}"
        return (None,) * len(shape)
    if shape == spec.shape:
        return spec.axes
    dim = _factored_away(path, spec)
    if dim is not None and shape == _without(spec.shape, dim):
        return _without(spec.axes, dim)
    # What Adafactor keeps where a row, a column or a full second moment is not used.
    depth = stacking_depth(spec)
    assert shape == (*spec.shape[:depth], 1), f"{path}: {shape} does not follow from {spec}"
    return (*spec.axes[:depth], None)


def _owner(path: Any, by_path: dict[Path, WeightSpec]) -> WeightSpec | None:
    """The weight whose path is the longest that `path` ends with."""
    for start in range(len(path)):
        suffix = path[start:]
        if all(isinstance(key, DictKey) for key in suffix) and _names(suffix) in by_path:
            return by_path[_names(suffix)]
    return None


def _factored_away(path: Any, spec: WeightSpec) -> int | None:
    """The dimension that this row or column of Adafactor's lacks, None if it is neither."""
    fields = {key.name for key in path if isinstance(key, GetAttrKey)}
    depth = stacking_depth(spec)
    if not fields & {"v_row", "v_col"} or len(spec.shape) - depth < 2:
        return None
    # Optax factors the two largest dimensions of the single weight and breaks ties by this very
    # sort: the row is the mean over the largest, the column over the second largest.
    by_size = np.argsort(spec.shape[depth:])
    return depth + int(by_size[-1] if "v_row" in fields else by_size[-2])


def _names(path: Any) -> Path:
    return tuple(str(key.key) for key in path)


def _without[T](entries: tuple[T, ...], dim: int) -> tuple[T, ...]:
    return entries[:dim] + entries[dim + 1 :]
