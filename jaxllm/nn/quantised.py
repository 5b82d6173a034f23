"""Weights that stay as they are, held as small integers: the base of QLoRA (arXiv:2305.14314).

M any leading dimensions, I inputs, O outputs. Qwix rounds and multiplies out again; it is imported
where it is used, because most runs have no such weights.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import PositiveInt

from jaxllm.nn.param import Nested
from jaxllm.parallel.axes import Axis, WeightSpec
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config

QuantisedDtype = Literal["int8", "int4"]

_INTEGERS, _SCALE = "integers", "scale"
# A number of the size of the largest one is half a step beyond the last integer (Qwix spreads a
# tile over -7.5 to 7.5). A little more room rounds it down, whatever a platform makes of an 8.
_CALIBRATION = "absmax,1.0001"


class QuantisedConfig(Config):
    """Weights as integers with scales; activations and what is trained stay as they are."""

    dtype: QuantisedDtype = "int4"
    """Integers of 8 bits or of 4."""
    tile: PositiveInt | None = None
    """Inputs of an output that share a scale, a float32; null is all of them for int8, and for int4
    64 as in QLoRA, or the largest number below that divides them."""

    def check_installed(self) -> None:
        """ValueError without the package that rounds."""
        if importlib.util.find_spec("qwix") is None:
            raise ValueError(
                "adapter.base: weights are quantised by the package qwix, which is not installed; "
                "pip install 'jaxllm[finetune]', or set adapter.base=null"
            )

    def scale_spec(self, kernel: WeightSpec, *, path: str) -> WeightSpec:
        """The declaration of a weight's scales: they lie where what they belong to does.

        A tile is of inputs next to each other, the last dimension of inputs first. ValueError for
        a size that does not divide them.
        """
        sizes = [kernel.shape[dim] for dim in kernel.input_dims]
        tiles = self._tiles(sizes)
        if tiles is None:
            raise ValueError(
                f"adapter.base.tile={self.tile} does not divide the inputs of {path}, "
                f"{' x '.join(map(str, sizes))}; choose a divisor of the last number, or a "
                "multiple of it that goes on dividing, or null"
            )
        shape, axes = list(kernel.shape), list(kernel.axes)
        for dim, number in zip(kernel.input_dims, tiles, strict=True):
            shape[dim] = number
            axes[dim] = _TILE if number == 1 else axes[dim]
        return replace(kernel, shape=tuple(shape), axes=tuple(axes), role="scale")

    def _tiles(self, sizes: Sequence[int]) -> tuple[int, ...] | None:
        """How many tiles there are along each dimension of inputs; None where they do not fit."""
        if self.tile is not None:
            return _cut(sizes, self.tile)
        if self.dtype == "int8":
            return (1,) * len(sizes)
        fitting = (_cut(sizes, tile) for tile in range(_INT4_TILE, 0, -1))
        return next(tiles for tiles in fitting if tiles is not None)


# Numbers of four bits that share a scale: arXiv:2305.14314, section 3.
_INT4_TILE = 64


_TILE: Axis = "tile"


class Quantised(nnx.Module):
    """A weight as integers and scales, both declared as the weight is.

    integers: in its shape. scale: one float32 a tile, a dimension of size one where it has all.
    """

    def __init__(self, kernel: nnx.Param, *, config: QuantisedConfig, path: str):
        """kernel: the weight, stacked or not. path: of it, for errors."""
        spec: WeightSpec = kernel.get_metadata("spec")
        scale = config.scale_spec(spec, path=path)
        integers, scales = quantise(kernel[...], shape=scale.shape, dtype=jnp.dtype(config.dtype))
        self.integers = nnx.Param(integers, spec=spec)
        self.scale = nnx.Param(scales, spec=scale)

    def dequantised(self) -> jax.Array:
        """The weight that is computed with, in float32."""
        return dequantise(self.integers[...], self.scale[...])

    def product(self, x_MI: jax.Array) -> jax.Array:
        """x W: (..., I) -> (..., O), with all dimensions of inputs and of outputs as one."""
        return product(x_MI, self.integers[...], self.scale[...])


def quantise(
    weight: jax.Array, *, shape: tuple[int, ...], dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """(integers, float32 scales of `shape`): |w - integer x scale| <= scale / 2 for each w.

    Symmetric, with the largest number of a tile at the end of the range.
    """
    import qwix

    pairs = list(zip(weight.shape, shape, strict=True))
    result = qwix.quantize(
        weight.astype(jnp.float32),
        dtype,
        channelwise_axes=[dim for dim, (size, tiles) in enumerate(pairs) if tiles == size],
        tiled_axes={
            dim: size // tiles for dim, (size, tiles) in enumerate(pairs) if 1 < tiles < size
        },
        calibration_method=_CALIBRATION,
    )
    return result.qvalue, result.scale


def dequantise(integers: jax.Array, scale: jax.Array) -> jax.Array:
    """Integers times the scales of their tiles, in float32."""
    import qwix

    return qwix.dequantize(qwix.QArray(integers, scale))


@jax.custom_vjp
def product(x_MI: jax.Array, integers: jax.Array, scale: jax.Array) -> jax.Array:
    """x W in the dtype of x, of inputs (..., I) and a weight whose inputs are I in all.

    Multiplied out again for the backward pass, which thus keeps integers and no weight in floating
    point; x has a gradient, the weight has none.
    """
    return x_MI @ dequantise(integers, scale).astype(x_MI.dtype).reshape(x_MI.shape[-1], -1)


def _forward(x_MI: jax.Array, integers: jax.Array, scale: jax.Array) -> tuple[jax.Array, Any]:
    return product(x_MI, integers, scale), (integers, scale)


def _backward(saved: tuple[jax.Array, jax.Array], g_MO: jax.Array) -> tuple[jax.Array, None, None]:
    w_IO = dequantise(*saved).astype(g_MO.dtype).reshape(-1, g_MO.shape[-1])
    return jax.lax.dot_general(g_MO, w_IO, (((g_MO.ndim - 1,), (1,)), ((), ()))), None, None


product.defvjp(_forward, _backward)


def unquantised(tree: Nested, *, is_on_host: bool = False) -> Nested:
    """A nested dict of declarations, or of shapes, with those of weights for their integers.

    is_on_host: whether the places of these weights are in host memory.
    """

    def weight(value: Any) -> Any:
        if not is_quantised(value):
            is_inner = isinstance(value, dict)
            return unquantised(value, is_on_host=is_on_host) if is_inner else value
        leaf = value[_INTEGERS]
        if isinstance(leaf, WeightSpec):
            return leaf
        sharding = leaf.sharding.with_memory_kind("pinned_host") if is_on_host else leaf.sharding
        return jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=sharding)

    return {name: weight(value) for name, value in tree.items()}


def is_quantised(entry: Any) -> bool:
    """Whether an entry of a nested dict is a weight as integers and scales."""
    return isinstance(entry, dict) and entry.keys() == {_INTEGERS, _SCALE}


def dequantised(tree: Nested) -> Nested:
    """A nested dict of weights with floating point for integers."""

    def weight(value: Any) -> Any:
        if is_quantised(value):
            return dequantise(value[_INTEGERS], value[_SCALE])
        return dequantised(value) if isinstance(value, dict) else value

    return {name: weight(value) for name, value in tree.items()}


def quantiser(abstract: Nested) -> Callable[[str, jax.Array], Any]:
    """(dotted path, weight) -> the weight as `abstract` has it: itself, or integers and scales.

    abstract: shapes with their shardings. A weight that becomes integers is deleted, so that no
    device holds more than one of them in both forms.
    """
    entries = dict(_entries(abstract))

    def convert(path: str, weight: jax.Array) -> Any:
        entry = entries.get(path)
        if entry is None:
            return weight
        shardings = tuple(entry[name].sharding for name in (_INTEGERS, _SCALE))
        make = jax.jit(
            lambda weight: quantise(
                jax.device_put(weight, jax.memory.Space.Device),
                shape=entry[_SCALE].shape,
                dtype=entry[_INTEGERS].dtype,
            ),
            out_shardings=shardings,
        )
        integers, scale = jax.block_until_ready(make(weight))
        weight.delete()
        return {_INTEGERS: integers, _SCALE: scale}

    return convert


def _entries(tree: Nested, prefix: str = "") -> list[tuple[str, Nested]]:
    """(dotted path, integers and scales) of each weight that is so."""
    found = []
    for name, value in tree.items():
        if is_quantised(value):
            found.append((f"{prefix}{name}", value))
        elif isinstance(value, dict):
            found += _entries(value, f"{prefix}{name}.")
    return found


def with_placed_scales(layout: Layout, specs: Nested) -> Nested:
    """Declarations whose scales the layout can cut as the weights they belong to.

    Where the mesh cuts through tiles, each of its devices has all scales along that dimension.
    """

    def place(value: Any) -> Any:
        if is_quantised(value):
            return {**value, _SCALE: _placed(layout, value[_SCALE])}
        return with_placed_scales(layout, value) if isinstance(value, dict) else value

    return {name: place(value) for name, value in specs.items()}


def _placed(layout: Layout, scale: WeightSpec) -> WeightSpec:
    pairs = zip(scale.axes, scale.shape, strict=True)
    axes = (_TILE if size % layout.degree(axis) else axis for axis, size in pairs)
    return replace(scale, axes=tuple(axes))


def _cut(sizes: Sequence[int], tile: int) -> tuple[int, ...] | None:
    """The tiles along each dimension, of neighbours in the last first; None if they do not fit."""
    found, left = [], tile
    for size in reversed(sizes):
        shared = min(left, size)
        if size % shared or left % shared:
            return None
        found.append(size // shared)
        left //= shared
    return tuple(reversed(found)) if left == 1 else None
