"""Rotary position embedding (arXiv:2104.09864), in the half-split form that Llama uses.

B batch, T length, N heads, H one head.
"""

import jax
import jax.numpy as jnp


def rotate(x_BTNH: jax.Array, positions_BT: jax.Array, *, theta: float) -> jax.Array:
    """Rotate the pair (x[i], x[i + H/2]) of each head by position * theta^(-2i/H)."""
    half = x_BTNH.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    # float32: at position 100,000 a bf16 angle is off by whole turns.
    angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1F), jnp.sin(angles_BT1F)
    if x_BTNH.dtype == jnp.bfloat16:
        return _turn(x_BTNH, jnp.tile(cos, 2), jnp.concatenate([-sin, sin], axis=-1))
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)


@jax.custom_vjp
def _turn(x_BTNH: jax.Array, cos_BT1H: jax.Array, sin_BT1H: jax.Array) -> jax.Array:
    """The rotation on whole heads, for matrix units; sin is negative in the first half.

    Halves of a head are pieces of a vector register on TPU, and moving them about costs as much
    as the projection that made them; the swap as a product with a permutation is nearly free.
    """
    swapped = _swap_halves(x_BTNH).astype(jnp.float32)
    turned = x_BTNH.astype(jnp.float32) * cos_BT1H + swapped * sin_BT1H
    return turned.astype(x_BTNH.dtype)


def _swap_halves(x: jax.Array) -> jax.Array:
    """(x[H/2:], x[:H/2]) along the last dimension, exactly: each sum has one term that is not 0."""
    size = x.shape[-1]
    permutation = jnp.roll(jnp.eye(size, dtype=x.dtype), size // 2, axis=1)
    return jnp.einsum("...i,ij->...j", x, permutation)


def _turn_forward(
    x: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _turn(x, cos, sin), (cos, sin)


def _turn_backward(
    saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, None, None]:
    # The transpose of a rotation turns back. Angles come from positions: no gradient.
    cos, sin = saved
    return _turn(gradient, cos, -sin), None, None


_turn.defvjp(_turn_forward, _turn_backward)
