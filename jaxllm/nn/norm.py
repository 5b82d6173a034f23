"""Root-mean-square and layer normalisation over the last dimension."""

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
        axis: Axis,
        size: int,
        norm_type: NormType,
        epsilon: float,
        use_bias: bool = False,
    ):
        self.norm_type = norm_type
        self.epsilon = epsilon
        self.scale = declare(key, WeightSpec((size,), (axis,), "scale", output_dims=(0,)), ones)
        bias = WeightSpec((size,), (axis,), "bias", output_dims=(0,))
        self.bias = declare(key, bias, zeros) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., size) -> the same shape and dtype."""
        y = x.astype(jnp.float32)
        if self.norm_type == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        mean_square = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(mean_square + self.epsilon) * self.scale[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)
