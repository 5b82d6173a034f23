"""Where an activation meets a weight matrix; beside it only `expert_matrix`, for one of many.

Adapters and quantisation replace this object; nothing else multiplies by a weight.
"""

import math

import jax
import jax.numpy as jnp

from jaxllm.kernels.matmul import matmul
from jaxllm.nn.matrix import Matrix
from jaxllm.nn.param import Initializer, declare, zeros
from jaxllm.nn.quantised import Quantised
from jaxllm.parallel.axes import Axis, Role, WeightSpec

# Name and size of each dimension, in order.
Dims = dict[Axis, int]


class Linear(Matrix):
    """y = x W + b over named dimensions: sums over `inputs`, produces `outputs`.

    W has shape (*inputs, *outputs) and b (*outputs). x ends in the input dimensions.
    """

    def __init__(
        self,
        key: jax.Array,
        *,
        inputs: Dims,
        outputs: Dims,
        use_bias: bool,
        init: Initializer,
        role: Role = "hidden",
    ):
        num_inputs, num_outputs = len(inputs), len(outputs)
        spec = WeightSpec(
            shape=(*inputs.values(), *outputs.values()),
            axes=(*inputs, *outputs),
            role=role,
            input_dims=tuple(range(num_inputs)),
            output_dims=tuple(range(num_inputs, num_inputs + num_outputs)),
        )
        self.num_inputs = num_inputs
        super().__init__(key, spec, init)
        self.bias = declare(key, _bias_spec(outputs), zeros) if use_bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *inputs) -> (..., *outputs), computed in the dtype of x."""
        shape = self._shape
        rows, outputs = x.shape[: x.ndim - self.num_inputs], shape[self.num_inputs :]
        num_inputs = math.prod(shape[: self.num_inputs])
        x = x.reshape(*rows, num_inputs)
        if isinstance(self.kernel, Quantised):
            y = self.kernel.product(x)
        else:
            y = matmul(x, self.kernel[...].astype(x.dtype).reshape(num_inputs, -1))
        if self.lora is not None:
            y = self.lora(y, x, self._kernel.reshape(num_inputs, -1))
        y = y.reshape(*rows, *outputs)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)

    def each(self, x: jax.Array) -> jax.Array:
        """(..., heads, inputs) -> (..., heads, outputs): each head's own input, by its part."""
        return jnp.einsum("...NI,INO->...NO", x, self._of_heads(x))

    def each_transposed(self, y: jax.Array) -> jax.Array:
        """(..., heads, outputs) -> (..., heads, inputs): each head's part, backward."""
        return jnp.einsum("...NO,INO->...NI", y, self._of_heads(y))

    def _of_heads(self, like: jax.Array) -> jax.Array:
        assert len(self._shape) == 3, self._shape
        assert self.bias is None, "it belongs to no input of a head"
        return self.weight.astype(like.dtype)


def _bias_spec(outputs: Dims) -> WeightSpec:
    dims = tuple(range(len(outputs)))
    return WeightSpec(tuple(outputs.values()), tuple(outputs), "bias", output_dims=dims)
