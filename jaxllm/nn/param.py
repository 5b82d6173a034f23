"""Weights of a module: declared once, seen as nested dicts by everything outside the model.

A Flax module is a pytree; its weights are `nnx.Param` whose metadata carries the WeightSpec.
Optimizers, checkpoints and layouts work on plain nested dicts keyed by attribute names.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.parallel.axes import WeightSpec

Initializer = Callable[[jax.Array, WeightSpec], jax.Array]
Nested = dict[str, Any]


def declare(key: jax.Array, spec: WeightSpec, init: Initializer) -> nnx.Param:
    """A weight of `spec.shape`, initialised in float32 (the precision it is kept in)."""
    return nnx.Param(init(key, spec), spec=spec)


def normal(std: float) -> Initializer:
    """Gaussian with a fixed standard deviation."""
    return lambda key, spec: std * jax.random.normal(key, spec.shape, jnp.float32)


def fan_in_normal(scale: float = 1.0) -> Initializer:
    """Gaussian of variance `scale`^2 / fan-in, which keeps the size of activations."""
    return lambda key, spec: (
        scale * spec.fan_in**-0.5 * jax.random.normal(key, spec.shape, jnp.float32)
    )


def zeros(key: jax.Array, spec: WeightSpec) -> jax.Array:
    """All zero: a residual branch that starts silent."""
    return jnp.zeros(spec.shape, jnp.float32)


def ones(key: jax.Array, spec: WeightSpec) -> jax.Array:
    """All one: a norm's scale."""
    return jnp.ones(spec.shape, jnp.float32)


def num_bytes(shape: tuple[int, ...], dtype: jnp.dtype) -> int:
    """Bytes of an array on a device, where two numbers of four bits share one."""
    bits = 4 if dtype == jnp.int4 else 8 * dtype.itemsize
    return -(-math.prod(shape) * bits // 8)


def is_param(node: Any) -> bool:
    """Whether a node of a module's tree is a weight."""
    return isinstance(node, nnx.Param)


def param_dict(model: nnx.Module) -> Nested:
    """The model's weights as a nested dict of arrays (or of their abstract shapes)."""
    return _nest(model, lambda param: param.get_value())


def spec_dict(model: nnx.Module) -> Nested:
    """The model's WeightSpecs, in the structure of `param_dict`."""
    return _nest(model, lambda param: param.get_metadata("spec"))


def bind(model: nnx.Module, params: Nested) -> Any:
    """`model` (abstract or not) with its weights replaced by `params`."""

    def take(path: tuple, param: nnx.Param) -> Any:
        value: Any = params
        for name in _names(path):
            value = value[name]
        return param.replace(value)

    return jax.tree.map_with_path(take, model, is_leaf=is_param)


def _nest(model: nnx.Module, get: Callable[[nnx.Param], Any]) -> Nested:
    nested: Nested = {}
    for path, param in jax.tree.flatten_with_path(model, is_leaf=is_param)[0]:
        *folders, name = _names(path)
        inner = nested
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = get(param)
    return nested


def _names(path: tuple) -> list[str]:
    return [
        str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path
    ]
