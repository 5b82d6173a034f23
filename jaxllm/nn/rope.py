"""Rotary position embedding (arXiv:2104.09864), in the half-split form that Llama uses."""

import jax
import jax.numpy as jnp


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, *, theta: float) -> jax.Array:
    """Rotate the pair (x[i], x[i + H/2]) of each head by position * theta^(-2i/H)."""
    half = x_BTNH.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # float32: at position 100,000 a bf16 angle is off by whole turns.
    angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1F), jnp.sin(angles_BT1F)
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)
