"""Root-mean-square and layer normalisation over the last dimensions."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.nn.param import declare, ones, zeros
from jaxllm.parallel.axes import Axis, WeightSpec

NormType = Literal["rms", "layer"]


class Norm(nnx.Module):
    """Layer norm (arXiv:1607.06450) or RMS norm (arXiv:1910.07467), with a learned scale.

    Statistics are taken in float32: bf16 squares of large activations lose the small ones.
    """

    def __init__(
        self,
        key: jax.Array,
        *,
        axis: Axis | tuple[Axis, ...],
        size: int | tuple[int, ...],
        norm_type: NormType,
        epsilon: float,
        use_bias: bool = False,
        has_centered_scale: bool = False,
    ):
        """has_centered_scale: the scale is kept minus one, so that decay pulls it to one."""
        axes = (axis,) if isinstance(axis, str) else axis
        shape = (size,) if isinstance(size, int) else size
        self.norm_type = norm_type
        self.epsilon = epsilon
        self.has_centered_scale = has_centered_scale
        dims = tuple(range(len(shape)))
        scale = WeightSpec(shape, axes, "scale", output_dims=dims)
        self.scale = declare(key, scale, zeros if has_centered_scale else ones)
        bias = WeightSpec(shape, axes, "bias", output_dims=dims)
        self.bias = declare(key, bias, zeros) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *size) -> the same shape and dtype."""
        y = x.astype(jnp.float32)
        dims = tuple(range(-self.scale[...].ndim, 0))
        if self.norm_type == "layer":
            y = y - jnp.mean(y, axis=dims, keepdims=True)
        mean_square = jnp.mean(jnp.square(y), axis=dims, keepdims=True)
        scale = self.scale[...] + 1.0 if self.has_centered_scale else self.scale[...]
        y = y * jax.lax.rsqrt(mean_square + self.epsilon) * scale
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)
