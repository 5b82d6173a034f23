"""Attention whose keys and values travel around a ring of devices (arXiv:2310.01889).

B batch, T queries of one shard, S keys of one shard, N query heads, K key/value heads, H head
dimension, C shards. Rows are dealt out in zigzag (`parallel/zigzag.py`): shard i holds
stretches i and 2C-1-i. Of the keys of another shard j
    all queries see the first stretch and none the second, if j < i;
    the second stretch of queries sees all and the first none, if j > i.
So every step but the own shard's is half a block without a causal mask, the same work on every
device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxllm.kernels.attention_splash import RESIDUALS


class BlockKernel(NamedTuple):
    """Attention to some of the keys, as `attention_xla.block_forward` and `block_backward`."""

    forward: Callable
    backward: Callable


class Keys(NamedTuple):
    """What travels: a shard's keys, values and segments."""

    k_BKSH: jax.Array
    v_BKSH: jax.Array
    segments_BS: jax.Array | None

    def first_stretch(self) -> "Keys":
        """The earlier half of the keys."""
        half = self.k_BKSH.shape[2] // 2
        segments = None if self.segments_BS is None else self.segments_BS[:, :half]
        return Keys(self.k_BKSH[:, :, :half], self.v_BKSH[:, :, :half], segments)


def ring_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array | None,
    *,
    axis_name: str,
    num_shards: int,
    kernel: BlockKernel,
) -> jax.Array:
    """One shard's part of causal attention, as (B, T, N, H), inside a shard_map over `axis_name`.

    Gradients: the backward pass goes around the ring too, with the log-sum-exp of all keys, for
    which the parts that the shards contribute add up exactly. Their sums are kept, and travel, in
    float32.
    """

    @jax.custom_vjp
    def ring(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segments: Any) -> jax.Array:
        return forward(q_BNTH, k_BKSH, v_BKSH, segments)[0]

    def forward(q_BNTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segments: Any) -> Any:
        keys = Keys(k_BKSH, v_BKSH, segments)
        out, log_normalizer = _forward(
            q_BNTH, keys, axis_name=axis_name, num_shards=num_shards, kernel=kernel
        )
        out = checkpoint_name(out.astype(q_BNTH.dtype), RESIDUALS)
        log_normalizer = checkpoint_name(log_normalizer, RESIDUALS)
        return out, (q_BNTH, keys, out, log_normalizer)

    def backward(saved: Any, g_BNTH: jax.Array) -> Any:
        gradients = _backward(
            saved, g_BNTH, axis_name=axis_name, num_shards=num_shards, kernel=kernel
        )
        return *gradients, None

    ring.defvjp(forward, backward)
    scaled_BTNH = q_BTNH * q_BTNH.shape[3] ** -0.5
    heads_first = (x.swapaxes(1, 2) for x in (scaled_BTNH, k_BSKH, v_BSKH))
    return ring(*heads_first, segments_BT).swapaxes(1, 2)


def _forward(
    q_BNTH: jax.Array, keys: Keys, *, axis_name: str, num_shards: int, kernel: BlockKernel
) -> tuple[jax.Array, jax.Array]:
    """The result and the log-sum-exp of all scores, both in float32."""
    index = jax.lax.axis_index(axis_name)
    half = q_BNTH.shape[2] // 2
    segments = keys.segments_BS

    def earlier(total: tuple, keys: Keys) -> tuple:
        part = kernel.forward(q_BNTH, *_pair(keys.first_stretch(), segments), is_causal=False)
        return merge(total, part)

    def later(total: tuple, keys: Keys) -> tuple:
        own = None if segments is None else segments[:, half:]
        part = kernel.forward(q_BNTH[:, :, half:], *_pair(keys, own), is_causal=False)
        merged = merge(tuple(x[:, :, half:] for x in total), part)
        return tuple(
            jnp.concatenate([x[:, :, :half], y], axis=2) for x, y in zip(total, merged, strict=True)
        )

    def step(carry: tuple, number: jax.Array) -> tuple:
        total, keys = carry
        onward = _rotate(keys, axis_name, num_shards)  # travels while this step computes
        total = jax.lax.cond(number <= index, earlier, later, total, keys)
        return (total, onward), None

    onward = _rotate(keys, axis_name, num_shards)
    out, log_normalizer = kernel.forward(q_BNTH, *_pair(keys, segments), is_causal=True)
    total = (out.astype(jnp.float32), log_normalizer)
    (total, _), _ = jax.lax.scan(step, (total, onward), jnp.arange(1, num_shards))
    return total


def _backward(
    saved: tuple[jax.Array, Keys, jax.Array, jax.Array],
    g_BNTH: jax.Array,
    *,
    axis_name: str,
    num_shards: int,
    kernel: BlockKernel,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dq, dk, dv) of this shard, from its queries, keys, result and log-sum-exp."""
    q_BNTH, keys, out_BNTH, log_normalizer_BNT = saved
    index = jax.lax.axis_index(axis_name)
    half = q_BNTH.shape[2] // 2
    segments = keys.segments_BS
    rest = (out_BNTH, log_normalizer_BNT, g_BNTH)

    def earlier(keys: Keys) -> tuple:
        dq, dk, dv = kernel.backward(
            q_BNTH, *_pair(keys.first_stretch(), segments), *rest, is_causal=False
        )
        return dq.astype(jnp.float32), *(_padded(x, (0, half)) for x in (dk, dv))

    def later(keys: Keys) -> tuple:
        own = None if segments is None else segments[:, half:]
        dq, dk, dv = kernel.backward(
            q_BNTH[:, :, half:],
            *_pair(keys, own),
            *(x[:, :, half:] for x in rest),
            is_causal=False,
        )
        return _padded(dq, (half, 0)), *(x.astype(jnp.float32) for x in (dk, dv))

    def step(carry: tuple, number: jax.Array) -> tuple:
        dq, dkeys, keys = carry
        # Both travel while this step computes: its sums join those of the steps before it.
        dkeys, onward = _rotate((dkeys, keys), axis_name, num_shards)
        more, *more_keys = jax.lax.cond(number <= index, earlier, later, keys)
        dkeys = [x + y for x, y in zip(dkeys, more_keys, strict=True)]
        return (dq + more, dkeys, onward), None

    onward = _rotate(keys, axis_name, num_shards)
    own = kernel.backward(q_BNTH, *_pair(keys, segments), *rest, is_causal=True)
    dq, *dkeys = (x.astype(jnp.float32) for x in own)
    steps = jnp.arange(1, num_shards)
    (dq, dkeys, _), _ = jax.lax.scan(step, (dq, dkeys, onward), steps)
    dk, dv = _rotate(dkeys, axis_name, num_shards)  # home
    return dq.astype(q_BNTH.dtype), dk.astype(keys.k_BKSH.dtype), dv.astype(keys.v_BKSH.dtype)


def merge(
    one: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Attention to two disjoint sets of keys, as (result, log-sum-exp), from that to each."""
    log_normalizer = jnp.logaddexp(one[1], other[1])
    out = sum(
        jnp.exp(part - log_normalizer)[..., None] * result.astype(jnp.float32)
        for result, part in (one, other)
    )
    return out, log_normalizer


def _pair(keys: Keys, query_segments_BT: jax.Array | None) -> tuple:
    """Keys, values, and the segments of queries and keys, in the order that kernels take them."""
    return keys.k_BKSH, keys.v_BKSH, query_segments_BT, keys.segments_BS


def _padded(x_BNTH: jax.Array, zeros: tuple[int, int]) -> jax.Array:
    """In float32, with so many positions of zeros before and after."""
    return jnp.pad(x_BNTH.astype(jnp.float32), ((0, 0), (0, 0), zeros, (0, 0)))


def _rotate(x: Any, axis_name: str, num_shards: int) -> Any:
    """Every array of `x` goes to the next device of the ring."""
    to_next = [(i, (i + 1) % num_shards) for i in range(num_shards)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis_name, to_next), x)
