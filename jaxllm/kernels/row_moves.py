"""Rows of activations sent to slots and brought back, by gathers in both directions.

The transpose that JAX derives for a gather is a scatter-add, which is slow on TPUs. Where both
ends of every move are known the transpose is a gather too.

N tokens, K copies of each, S slots, D features. `sources_S` says which copy (token * K + k) a
slot holds, N * K if none; `slots_NK` says in which slot a copy lies, S if in none. They describe
the same moves, seen from either end.
"""

import jax
import jax.numpy as jnp
import numpy as np

Moves = tuple[jax.Array, jax.Array]


@jax.custom_vjp
def to_slots(x_ND: jax.Array, sources_S: jax.Array, slots_NK: jax.Array) -> jax.Array:
    """(N, D) -> (S, D): each slot's token; zeros in empty slots."""
    return _take(x_ND, sources_S // slots_NK.shape[1])


@jax.custom_vjp
def from_slots(y_SD: jax.Array, sources_S: jax.Array, slots_NK: jax.Array) -> jax.Array:
    """(S, D) -> (N, K, D): what lies in the slot of each copy; zeros for copies in no slot."""
    return _take(y_SD, slots_NK)


def _take(x: jax.Array, index: jax.Array) -> jax.Array:
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _to_slots_forward(
    x_ND: jax.Array, sources_S: jax.Array, slots_NK: jax.Array
) -> tuple[jax.Array, Moves]:
    return to_slots(x_ND, sources_S, slots_NK), (sources_S, slots_NK)


def _to_slots_backward(moves: Moves, g_SD: jax.Array) -> tuple:
    _, slots_NK = moves
    g_NKD = _take(g_SD, slots_NK)
    # Few copies, but each may be bfloat16.
    g_ND = jnp.sum(g_NKD, axis=1, dtype=jnp.float32).astype(g_SD.dtype)
    return g_ND, *_no_gradient(moves)


def _from_slots_forward(
    y_SD: jax.Array, sources_S: jax.Array, slots_NK: jax.Array
) -> tuple[jax.Array, Moves]:
    return from_slots(y_SD, sources_S, slots_NK), (sources_S, slots_NK)


def _from_slots_backward(moves: Moves, g_NKD: jax.Array) -> tuple:
    sources_S, _ = moves
    return _take(g_NKD.reshape(-1, g_NKD.shape[2]), sources_S), *_no_gradient(moves)


def _no_gradient(moves: Moves) -> tuple[np.ndarray, ...]:
    return tuple(np.zeros(index.shape, jax.dtypes.float0) for index in moves)


to_slots.defvjp(_to_slots_forward, _to_slots_backward)
from_slots.defvjp(_from_slots_forward, _from_slots_backward)
