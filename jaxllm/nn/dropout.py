"""Dropout whose masks depend on the example, never on how the batch is sharded."""

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
    """Zero each element of x (B, ...) with probability `rate` and scale up the rest.

    keys_B: one key an example; None is evaluation, which changes nothing.
    """
    if rate == 0.0 or keys_B is None:
        return x
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))
    return jnp.where(draw(keys_B), x / (1.0 - rate), jnp.zeros_like(x))


def fold_in(keys_B: jax.Array | None, data: jax.Array | int) -> jax.Array | None:
    """Each example's key, made different for this place in the network."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, data))(keys_B)
