"""A matrix for each of several experts, and what they make of rows in groups.

E experts, S rows in groups, I inputs, O outputs, R rank, C tiles.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.kernels.grouped_matmul import grouped_matmul
from jaxllm.nn.matrix import Matrix
from jaxllm.nn.param import Initializer
from jaxllm.nn.quantised import Quantised, dequantise
from jaxllm.parallel.axes import Axis, WeightSpec
from jaxllm.parallel.layouts import Layout

# What a product is made of: `kernel` (E, I, O), or `integers` (E, I, O) and `scale` (E, C, O); with
# an adapter also `a` (E, I, R) and `b` (E, R, O).
Operands = dict[str, jax.Array]


class ExpertMatrix(Matrix):
    """W of shape (E, I, O). With Linear, the other place where activations meet weights."""

    def __init__(
        self,
        key: jax.Array,
        *,
        num_experts: int,
        inputs: tuple[Axis, int],
        outputs: tuple[Axis, int],
        init: Initializer,
    ):
        spec = WeightSpec(
            shape=(num_experts, inputs[1], outputs[1]),
            axes=("experts", inputs[0], outputs[0]),
            role="hidden",
            input_dims=(1,),
            output_dims=(2,),
        )
        super().__init__(key, spec, init)

    def operands(self, dtype: Any, layout: Layout | None) -> Operands:
        """What `product` takes: in `dtype`, but for integers and their float32 scales."""
        if isinstance(self.kernel, Quantised):
            found = {"integers": self._leaf[...], "scale": self._scale(layout)}
        else:
            found = {"kernel": self.kernel[...].astype(dtype)}
        if self.lora is not None:
            found["a"] = (self.lora.scale * self.lora.a[...]).astype(dtype)
            found["b"] = self.lora.b[...].astype(dtype)
        return found

    def operand_axes(self, operands: Operands) -> dict[str, tuple[Axis, ...]]:
        """The logical axes of each operand."""
        experts, inputs, outputs = self.spec.axes[-3:]
        axes: dict[str, tuple[Axis, ...]] = dict.fromkeys(operands, (experts, inputs, outputs))
        if "scale" in operands and operands["scale"].shape[1] == 1:
            axes["scale"] = (experts, "tile", outputs)
        if "a" in operands:
            axes |= {"a": (experts, inputs, "rank"), "b": (experts, "rank", outputs)}
        return axes

    def _scale(self, layout: Layout | None) -> jax.Array:
        """The scales, in tiles so small that the layout's cuts are between them."""
        assert isinstance(self.kernel, Quantised)
        scale_ECO = self.kernel.scale[...]
        tiles = scale_ECO.shape[1]
        degree = 1 if layout is None else layout.degree(self.spec.axes[-2])
        if tiles == 1 or tiles % degree == 0:
            return scale_ECO
        return jnp.repeat(scale_ECO, math.lcm(tiles, degree) // tiles, axis=1)


def product(operands: Operands, x_SI: jax.Array, sizes_E: jax.Array, *, platform: str) -> jax.Array:
    """(S, I) -> (S, O): each group of rows by its expert's matrix; undefined beyond the groups."""
    multiply = partial(grouped_matmul, sizes_E=sizes_E, platform=platform)
    if "kernel" in operands:
        y_SO = multiply(x_SI, operands["kernel"])
    else:
        y_SO = _quantised(platform, x_SI, operands["integers"], operands["scale"], sizes_E)
    if "a" in operands:
        y_SO = y_SO + multiply(multiply(x_SI, operands["a"]), operands["b"])
    return y_SO


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _quantised(
    platform: str, x_SI: jax.Array, integers: jax.Array, scale: jax.Array, sizes_E: jax.Array
) -> jax.Array:
    """As `quantised.product`: multiplied out again for the backward pass, and no gradient of W."""
    w_EIO = dequantise(integers, scale).astype(x_SI.dtype)
    return grouped_matmul(x_SI, w_EIO, sizes_E, platform=platform)


def _forward(platform: str, x_SI: jax.Array, *others: jax.Array) -> tuple[jax.Array, Any]:
    return _quantised(platform, x_SI, *others), others


def _backward(platform: str, saved: tuple, g_SO: jax.Array) -> tuple[jax.Array, None, None, None]:
    integers, scale, sizes_E = saved
    w_EOI = jnp.swapaxes(dequantise(integers, scale), 1, 2).astype(g_SO.dtype)
    return grouped_matmul(g_SO, w_EOI, sizes_E, platform=platform), None, None, None


_quantised.defvjp(_forward, _backward)
