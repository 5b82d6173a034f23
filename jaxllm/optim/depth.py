"""Rates that fall from the output of a network to its input.

What published weights know of everything lies in the lower layers, so they are moved less than what
is above them (arXiv:1801.06146, section 3.1; counted as in BEiT, arXiv:2106.08254).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxllm.parallel.axes import WeightSpec

Path = tuple[str, ...]

# Parts of a network by their names in it: stacks of layers from the lowest up, and what comes in
# front of them beside the embeddings.
_STACKS = ("dense_blocks", "blocks")
_INPUTS = ("input_norm", "patch_embed", "class_embed")


def scale_by_depth(
    decay: float, specs: Mapping[str, Any], *, frozen: Mapping[str, Any] | None = None
) -> optax.GradientTransformation:
    """Multiplies the step of each weight by decay to the number of layers from there to the head.

    The head and the last norm: 1. The uppermost layer: decay. The embeddings, and what comes with
    them: decay ** (layers + 1). Each of stacked layers has a factor of its own. frozen: weights
    of the same network that stay; their layers count as all others do.
    """
    by_path = {
        tuple(key.key for key in path): spec
        for part in (specs, frozen or {})
        for path, spec in jax.tree.leaves_with_path(part)
    }
    sizes = {_stack(path): _num_layers(spec) for path, spec in by_path.items() if _stack(path)}

    def factor(path: Any, spec: WeightSpec) -> Any:
        return decay ** _distance(tuple(key.key for key in path), spec, sizes)

    factors = jax.tree.map_with_path(factor, specs)
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda leaf, by: leaf * np.asarray(by, leaf.dtype), updates, factors
        )
    )


def _distance(path: Path, spec: WeightSpec, sizes: Mapping[Path, int]) -> Any:
    """Layers from a weight to the head: a number, or one for each of stacked layers.

    sizes: the number of layers of each stack, by its path.
    """
    stack = _stack(path)
    tower = stack[:-1] if stack else _tower(path, sizes)
    stacks = [one for one in sizes if one[:-1] == tower]
    # What all towers share is as far as in the highest of them.
    total = sum(sizes[one] for one in stacks) or max(sizes.values(), default=0)
    if not stack:
        is_input = spec.role == "embedding" or path[len(tower)] in _INPUTS
        return total + 1 if is_input else 0
    lower = _STACKS[: _STACKS.index(stack[-1])]
    first = sum(sizes[one] for one in stacks if one[-1] in lower)
    depth = 1 + spec.axes.index("layers")
    distances = total - first - np.arange(_num_layers(spec))
    return distances.reshape(*spec.shape[:depth], *(1,) * (len(spec.shape) - depth))


def _stack(path: Path) -> Path:
    """The path of the stack of layers that a weight is in; () for none."""
    return path[: path.index("layers")] if "layers" in path else ()


def _tower(path: Path, sizes: Mapping[Path, int]) -> Path:
    """The part of a network, with layers of its own, that a weight outside of them is in."""
    towers = {stack[:-1] for stack in sizes if path[: len(stack) - 1] == stack[:-1]}
    return max(towers, key=len, default=())


def _num_layers(spec: WeightSpec) -> int:
    """Of a stack, which a pipeline may have cut in rounds."""
    return math.prod(spec.shape[: 1 + spec.axes.index("layers")])
