"""Biases of attention scores by the distance of query and key (T5, arXiv:1910.10683, section 2.1).

T queries, S keys, N query heads, R buckets.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxllm.nn.param import Initializer, declare
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, constrain


class RelativeBias(nnx.Module):
    """One learned number a head and bucket of distances, shared by the layers of a stack.

    The first half of the buckets are distances 0, 1, 2, ...; the others grow, up to
    `max_distance`, and the last has all that is farther. Seen in both directions, keys behind
    the query have one half of all buckets and keys ahead of it the other.
    """

    def __init__(
        self,
        key: jax.Array,
        *,
        num_heads: int,
        num_buckets: int,
        max_distance: int,
        is_bidirectional: bool,
        init: Initializer,
    ):
        """is_bidirectional: whether keys ahead of the query are told apart from each other."""
        spec = WeightSpec((num_buckets, num_heads), ("buckets", "heads"), "embedding", (0,), (1,))
        self.table = declare(key, spec, init)
        self.max_distance = max_distance
        self.is_bidirectional = is_bidirectional

    def __call__(
        self, positions_T: jax.Array, num_keys: int, *, layout: Layout | None
    ) -> jax.Array:
        """Biases (N, T, S) in float32 of queries at `positions_T` to keys at 0 .. S - 1."""
        table_RN = self.table[...]
        ahead_TS = jnp.arange(num_keys) - positions_T[:, None]
        buckets_TS = bucket_of(
            ahead_TS,
            num_buckets=table_RN.shape[0],
            max_distance=self.max_distance,
            is_bidirectional=self.is_bidirectional,
        )
        # A product with ones and zeros: the gradient of a lookup would be added up one number
        # after the other on a TPU. In full precision it is exact.
        is_bucket_RTS = buckets_TS == jnp.arange(table_RN.shape[0])[:, None, None]
        bias_NTS = jnp.einsum(
            "RN,RTS->NTS", table_RN, is_bucket_RTS.astype(table_RN.dtype), precision="highest"
        )
        return constrain(layout, bias_NTS, "act_heads", None, None)


def bucket_of(
    ahead: jax.Array, *, num_buckets: int, max_distance: int, is_bidirectional: bool
) -> jax.Array:
    """The bucket, int32, of keys `ahead` positions after their query (before it: negative)."""
    if not is_bidirectional:
        return _distance_bucket(jnp.maximum(-ahead, 0), num_buckets, max_distance)
    half = num_buckets // 2
    return half * (ahead > 0) + _distance_bucket(jnp.abs(ahead), half, max_distance)


def _distance_bucket(distance: jax.Array, num_buckets: int, max_distance: int) -> jax.Array:
    starts = np.array(bucket_starts(num_buckets, max_distance), np.int32)
    return jnp.sum(distance[..., None] >= starts, axis=-1, dtype=jnp.int32)


def bucket_starts(num_buckets: int, max_distance: int) -> list[int]:
    """The smallest distance of each bucket but the first.

    With E = num_buckets // 2 exact distances, bucket E + k begins where
    log(distance / E) / log(max_distance / E) >= k / (num_buckets - E). In whole numbers, because
    for the usual sizes there is equality at 16, 32 and 64, where a logarithm that is rounded down
    would put pairs into another bucket than the one that a checkpoint was trained with.
    """
    exact = num_buckets // 2
    spread = num_buckets - exact
    starts = list(range(1, exact + 1))
    for k in range(1, spread):
        distance = starts[-1]
        while distance**spread < max_distance**k * exact ** (spread - k):
            distance += 1
        starts.append(distance)
    return starts
