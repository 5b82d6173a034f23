"""Dropout whose masks depend on the example, never on how the batch is sharded."""

import jax
import jax.numpy as jnp

from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.shard import dealt_out


def dropout(
    x: jax.Array, rate: float, keys_B: jax.Array | None, *, layout: Layout | None = None
) -> jax.Array:
    """Zero each element of x (B, ...) with probability `rate` and scale up the rest.

    keys_B: one key an example; None is evaluation, which changes nothing. layout: where the
    second dimension is positions, so that each keeps its mask wherever it lies.
    """
    if rate == 0.0 or keys_B is None:
        return x
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))
    is_kept = dealt_out(layout, draw(keys_B))
    return jnp.where(is_kept, x / (1.0 - rate), jnp.zeros_like(x))


def fold_in(keys_B: jax.Array | None, data: jax.Array | int) -> jax.Array | None:
    """Each example's key, made different for this place in the network."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys_B)
