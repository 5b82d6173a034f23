"""The order in which a row's positions are dealt to the shards of a long context.

Under a causal mask the first positions of a row see few keys and the last see all. A row is
therefore cut in two stretches a shard, and shard i of C holds stretches i and 2C-1-i: every
shard then computes the same number of scores.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Shard(NamedTuple):
    """One of the parts that a row is dealt out to; `index` is a traced scalar."""

    num_shards: int
    index: jax.Array


def zigzag_order(length: int, num_shards: int) -> np.ndarray:
    """int32 (length,): `row[order]`, cut in `num_shards` equal parts, is what each shard holds.

    ValueError unless twice `num_shards` divides `length`.
    """
    if length % (2 * num_shards):
        raise ValueError(
            f"data.sequence_length: {length} positions cannot be dealt out to parallel.context="
            f"{num_shards} shards in two stretches each; make it a multiple of {2 * num_shards}, "
            "or change parallel.context"
        )
    stretches = np.arange(length, dtype=np.int32).reshape(2 * num_shards, -1)
    first = np.arange(num_shards)
    return stretches[np.stack([first, 2 * num_shards - 1 - first], axis=1)].reshape(-1)


def natural_order(length: int, num_shards: int) -> np.ndarray:
    """int32 (length,), the inverse: `row[zigzag_order][natural_order]` is `row`."""
    return np.argsort(zigzag_order(length, num_shards)).astype(np.int32)


def shard_positions(length: int, shard: Shard) -> jax.Array:
    """int32 (length / num_shards,): the positions of a row that a shard holds."""
    order = jnp.asarray(zigzag_order(length, shard.num_shards).reshape(shard.num_shards, -1))
    return jax.lax.dynamic_index_in_dim(order, shard.index, keepdims=False)


def gather_in_order(x: jax.Array, *, axis_name: str, num_shards: int) -> jax.Array:
    """Inside a shard_map: (B, T / C, ...) of every shard -> the whole (B, T, ...) in row order."""
    stretches = x.reshape(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:])
    whole = jax.lax.all_gather(stretches, axis_name, axis=1)  # (B, C, 2, ...)
    # The first stretches ascend with the shard and the second descend.
    whole = jnp.concatenate([whole[:, :, 0], jnp.flip(whole[:, :, 1], axis=1)], axis=1)
    return whole.reshape(x.shape[0], num_shards * x.shape[1], *x.shape[2:])
