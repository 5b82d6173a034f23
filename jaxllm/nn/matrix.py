"""A weight that activations are multiplied by: what adapters and quantisation know of it."""

import math

import jax
from flax import nnx

from jaxllm.nn.lora import Lora
from jaxllm.nn.param import Initializer, declare
from jaxllm.nn.quantised import Quantised, QuantisedConfig
from jaxllm.parallel.axes import WeightSpec


class Matrix(nnx.Module):
    """W of shape (*batch, *inputs, *outputs): one matrix, or one of each of a batch.

    kernel: W, or integers and scales that stay for it. lora: what is learned beside W, see
    `adapters`.
    """

    kernel: nnx.Param | Quantised
    lora: Lora | None = None

    def __init__(self, key: jax.Array, spec: WeightSpec, init: Initializer):
        self.kernel = declare(key, spec, init)

    @property
    def spec(self) -> WeightSpec:
        """The declaration of W."""
        return self._leaf.get_metadata("spec")

    def quantise(self, config: QuantisedConfig, *, path: str) -> None:
        """Let integers and scales stand for W from now on, in place. path: of the layer.

        ValueError for a tile that does not divide the inputs.
        """
        assert isinstance(self.kernel, nnx.Param), f"{path} is quantised already"
        self.kernel = Quantised(self.kernel, config=config, path=f"{path}.kernel")

    @property
    def weight(self) -> jax.Array:
        """W with all that was learned beside it, in float32; of one matrix, not of a batch."""
        kernel = self._kernel
        if self.lora is None:
            return kernel
        num_inputs = math.prod(kernel.shape[: len(self.spec.input_dims)])
        return self.lora.merged(kernel.reshape(num_inputs, -1)).reshape(kernel.shape)

    @property
    def _leaf(self) -> nnx.Param:
        """What has the shape of W."""
        return self.kernel.integers if isinstance(self.kernel, Quantised) else self.kernel

    @property
    def _shape(self) -> tuple[int, ...]:
        return self._leaf[...].shape

    @property
    def _kernel(self) -> jax.Array:
        """W in float32."""
        kernel = self.kernel
        return kernel.dequantised() if isinstance(kernel, Quantised) else kernel[...]
