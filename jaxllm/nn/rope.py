"""Rotary position embedding (arXiv:2104.09864), in the half-split form that Llama uses.

B batch, T length, N heads, H one head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxllm.nn.rope_scaling import RopeScaling


@dataclass(frozen=True)
class Rope:
    """Rotary positions: pair i of a head turns by position * theta^(-2i / rotated dimensions).

    fraction: share of a head that is rotated, its first dimensions. scaling: what is done to the
    frequencies for longer contexts; None is nothing.
    """

    theta: float
    fraction: float = 1.0
    scaling: RopeScaling | None = None

    def rotated_dims(self, head_dim: int) -> int:
        """Dimensions of a head that are rotated."""
        return round(head_dim * self.fraction)

    def turns(self, positions_BT: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array]:
        """Cosines and sines of the angles, as (B, T, 1, F), float32."""
        half = self.rotated_dims(head_dim) // 2
        frequencies_F = self.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        amplitude = 1.0
        if self.scaling is not None:
            frequencies_F = self.scaling.scaled(
                frequencies_F, theta=self.theta, positions_BT=positions_BT
            )
            amplitude = self.scaling.amplitude
        # float32: at position 100,000 a bf16 angle is off by whole turns.
        angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * frequencies_F
        cos, sin = jnp.cos(angles_BT1F), jnp.sin(angles_BT1F)
        return (cos, sin) if amplitude == 1.0 else (amplitude * cos, amplitude * sin)


def rotate(x_BTNH: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the pair (x[i], x[i + F]) of each head by angle i; dimensions from 2 F on stay."""
    cos_BT1F, sin_BT1F = turns
    size = 2 * cos_BT1F.shape[-1]
    if size == x_BTNH.shape[-1]:
        return _rotate_all(x_BTNH, cos_BT1F, sin_BT1F)
    turned = _rotate_all(x_BTNH[..., :size], cos_BT1F, sin_BT1F)
    return jnp.concatenate([turned, x_BTNH[..., size:]], axis=-1)


def _rotate_all(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
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
