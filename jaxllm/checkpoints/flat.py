"""Trees as checkpoints hold them: by path, free of the classes that they were made of."""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Any pytree -> {path: leaf}: names in a checkpoint do not hang on Optax's classes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.flatten_with_path(tree)[0]
    }


def unflatten(flat: Mapping[str, Any], like: Any) -> Any:
    """The pytree of the structure `like` with the leaves of `flat`."""
    return jax.tree.map_with_path(
        lambda path, _: flat[jax.tree_util.keystr(path, simple=True, separator=".")], like
    )


def other_shapes(saved: Any, asked: Any) -> list[str]:
    """A line for each array that two trees do not have in the same shape."""
    saved_shapes = {path: tuple(leaf.shape) for path, leaf in flatten(saved).items()}
    asked_shapes = {path: tuple(leaf.shape) for path, leaf in flatten(asked).items()}
    return [
        f"  {path}: saved {saved_shapes.get(path, 'nothing')}, "
        f"the config asks for {asked_shapes.get(path, 'nothing')}"
        for path in sorted(saved_shapes.keys() | asked_shapes.keys())
        if saved_shapes.get(path) != asked_shapes.get(path)
    ]
