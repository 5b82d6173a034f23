"""Attention whose keys and values travel around a ring of devices (arXiv:2310.01889).

B batch, T queries of one shard, S keys of one shard, N query heads, K key/value heads, H head
dimension, C shards. Rows are dealt out in zigzag (`parallel/zigzag.py`): shard i holds
stretches i and 2C-1-i of a row, its first and second half. Of the keys of another shard j
    the second half of queries sees the first half, whole, whatever j;
    the first half of queries sees the first half, whole, if j < i, and no other;
    the second half of queries sees the second half, whole, if j > i.
So a step with another shard's keys is two blocks without a causal mask, of the same size on every
device, of which one has a place that depends on the device.
"""

from collections.abc import Callable
from functools import partial
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
    segments_BT = keys.segments_BS

    def add(total: Any, keys: Keys, *, queries_at: Any, keys_at: Any) -> Any:
        """What half of the queries gets from half of the keys joins the total."""
        part = kernel.forward(
            _half(q_BNTH, queries_at),
            *_halves(keys, keys_at),
            *(_half(segments_BT, queries_at, axis=1), _half(keys.segments_BS, keys_at, axis=1)),
            is_causal=False,
        )
        merged = merge(_half(total, queries_at), part)
        return jax.tree.map(partial(_put, half=queries_at), total, merged)

    def step(carry: tuple, number: jax.Array) -> tuple:
        total, keys = carry
        onward = _rotate(keys, axis_name, num_shards)  # travels while this step computes
        total = add(total, keys, queries_at=1, keys_at=0)
        diagonal = _diagonal(number, axis_name)
        total = add(total, keys, queries_at=diagonal, keys_at=diagonal)
        return (total, onward), None

    onward = _rotate(keys, axis_name, num_shards)
    out, log_normalizer = kernel.forward(
        q_BNTH, *keys[:2], segments_BT, segments_BT, is_causal=True
    )
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
    segments_BT = keys.segments_BS
    rest = (out_BNTH, log_normalizer_BNT, g_BNTH)

    def add(total: Any, keys: Keys, *, queries_at: Any, keys_at: Any) -> Any:
        dq, *dkeys = kernel.backward(
            _half(q_BNTH, queries_at),
            *_halves(keys, keys_at),
            *(_half(segments_BT, queries_at, axis=1), _half(keys.segments_BS, keys_at, axis=1)),
            *(_half(x, queries_at) for x in rest),
            is_causal=False,
        )
        total_dq, total_dkeys = total
        return (
            _put(total_dq, _half(total_dq, queries_at) + dq, half=queries_at),
            [
                _put(total, _half(total, keys_at) + x, half=keys_at)
                for total, x in zip(total_dkeys, dkeys, strict=True)
            ],
        )

    def step(carry: tuple, number: jax.Array) -> tuple:
        dq, dkeys, keys = carry
        onward = _rotate(keys, axis_name, num_shards)
        total = (dq, _rotate(dkeys, axis_name, num_shards))
        total = add(total, keys, queries_at=1, keys_at=0)
        diagonal = _diagonal(number, axis_name)
        total = add(total, keys, queries_at=diagonal, keys_at=diagonal)
        return (*total, onward), None

    onward = _rotate(keys, axis_name, num_shards)
    own = kernel.backward(q_BNTH, *keys[:2], segments_BT, segments_BT, *rest, is_causal=True)
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


def _diagonal(number: jax.Array, axis_name: str) -> jax.Array:
    """Which half of queries sees the same half of the keys that have come `number` devices far."""
    return jnp.where(number <= jax.lax.axis_index(axis_name), 0, 1)


def _half(x: Any, half: Any, *, axis: int = 2) -> Any:
    """The first (0) or second (1) half of positions, of every array of a tree."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(
            leaf, half * (leaf.shape[axis] // 2), leaf.shape[axis] // 2, axis
        ),
        x,
    )


def _halves(keys: Keys, half: Any) -> tuple[jax.Array, jax.Array]:
    return _half(keys.k_BKSH, half), _half(keys.v_BKSH, half)


def _put(x_BNT: jax.Array, half_BNT: jax.Array, *, half: Any) -> jax.Array:
    """`x_BNT` with one half of its positions replaced."""
    start = half * half_BNT.shape[2]
    return jax.lax.dynamic_update_slice_in_dim(x_BNT, half_BNT, start, axis=2)


def _rotate(x: Any, axis_name: str, num_shards: int) -> Any:
    """Every array of `x` goes to the next device of the ring."""
    to_next = [(i, (i + 1) % num_shards) for i in range(num_shards)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis_name, to_next), x)
