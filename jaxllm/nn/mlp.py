"""The feed-forward block.

B batch, T length, D embed, F hidden.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm.kernels.materialize import gradient_materialized, materialized
from jaxllm.nn.branch import Branch
from jaxllm.nn.linear import Dims, Linear
from jaxllm.nn.param import Initializer
from jaxllm.nn.remat import kept
from jaxllm.parallel.layouts import Layout, constrain

Activation = Literal["silu", "gelu", "gelu_exact", "gelu_sigmoid", "relu", "relu_squared"]

ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,  # the tanh form, as GPT-2 has it
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),  # arXiv:1606.08415, section 2
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),  # arXiv:2109.08668
}


class Mlp(Branch):
    """down(act(up x)), or down(act(gate x) * up x) when gated (arXiv:2002.05202)."""

    def __init__(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        mlp_dim: int,
        activation: Activation,
        is_gated: bool,
        use_bias: bool,
        init: Initializer,
        output_init: Initializer,
    ):
        up_key, gate_key, down_key = jax.random.split(key, 3)
        outer: Dims = {"embed": embed_dim}
        inner: Dims = {"mlp": mlp_dim}
        self.activation = activation
        self.up = Linear(up_key, inputs=outer, outputs=inner, use_bias=use_bias, init=init)
        self.gate = (
            Linear(gate_key, inputs=outer, outputs=inner, use_bias=use_bias, init=init)
            if is_gated
            else None
        )
        self.down = Linear(
            down_key, inputs=inner, outputs=outer, use_bias=use_bias, init=output_init
        )

    def __call__(self, x_BTD: jax.Array, *, layout: Layout | None) -> jax.Array:
        """(B, T, D) -> (B, T, D)."""
        act = ACTIVATIONS[self.activation]
        up_BTF = kept(self._hidden(self.up(x_BTD), layout), "up")
        if self.gate is None:
            return self.down(materialized(layout, act(up_BTF)))
        gate_BTF = kept(self._hidden(self.gate(x_BTD), layout), "gate")
        return self.down(materialized(layout, act(gate_BTF) * up_BTF))

    @staticmethod
    def _hidden(h_BTF: jax.Array, layout: Layout | None) -> jax.Array:
        h_BTF = constrain(layout, h_BTF, "batch", "length", "act_mlp")
        return gradient_materialized(layout, h_BTF)
