"""Lookup tables: token embeddings and learned positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.nn.param import declare, normal
from jaxllm.parallel.axes import Axis, WeightSpec
from jaxllm.parallel.layouts import Layout, constrain


class Embedding(nnx.Module):
    """A table of vectors looked up by index; tied models multiply by it at the output too."""

    def __init__(self, key: jax.Array, *, axis: Axis, rows: int, embed_dim: int, std: float):
        # As a weight its input is the index, so that fan-in and decay treat it as a table.
        spec = WeightSpec((rows, embed_dim), (axis, "embed"), "embedding", (0,), (1,))
        self.table = declare(key, spec, normal(std))

    def __call__(
        self, indices_BT: jax.Array, *, dtype: jnp.dtype, layout: Layout | None
    ) -> jax.Array:
        """(B, T) -> (B, T, embed_dim) in `dtype`, the network's compute precision."""
        # Whole rows before the lookup: otherwise its backward pass cuts the batch anew.
        table_VD = constrain(layout, self.table[...].astype(dtype), "act_vocab", "act_embed")
        return table_VD[indices_BT]

    def attend(self, x_BTD: jax.Array) -> jax.Array:
        """The product with every row: (B, T, embed_dim) -> (B, T, rows)."""
        return jnp.einsum("BTD,VD->BTV", x_BTD, self.table[...].astype(x_BTD.dtype))
