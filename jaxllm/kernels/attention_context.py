"""Attention over rows whose positions lie on several devices, in three ways.

B batch, T queries and S keys of one shard, N query heads, K key/value heads, H head dimension,
C shards.

    all_gather  every device gets all keys and values, for its own queries; zigzag order
    ring        keys and values pass by, one shard at a time; zigzag order
    ulysses     heads are exchanged for positions, and back; row order (arXiv:2309.14509)

Sent and received a device and layer, in arrays of (B, S, K, H), forward: all_gather and ring
2 (C - 1), ulysses about 2 (1 + N / K). all_gather holds all C of them at once, ring two.
"""

from collections.abc import Callable
from functools import partial

import jax

from jaxllm.kernels.attention_request import AttentionRequest
from jaxllm.kernels.attention_ring import BlockKernel, ring_attention
from jaxllm.kernels.per_device import per_device
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.zigzag import Shard, gather_in_order

AXIS = "context"


def check(request: AttentionRequest) -> None:
    """ValueError, naming the config key, for what no kernel can do over several devices."""
    shards, way = request.num_shards, request.context_attention
    if request.has_cache:
        raise ValueError(f"parallel.context={shards}: a key/value cache needs parallel.context=1")
    if not request.is_causal or request.has_bias:
        kind = "a bias on scores" if request.has_bias else "attention that is not causal"
        raise ValueError(f"parallel.context={shards}: {kind} needs parallel.context=1")
    if request.has_prefix:
        raise ValueError(
            f"parallel.context={shards}: a prefix that is seen as a whole needs parallel.context=1"
        )
    if way == "ring" and request.window is not None:
        raise ValueError(
            "parallel.context_attention=ring cannot do a sliding window; set it to all_gather"
        )
    if way == "ulysses":
        heads = (("query", request.num_heads), ("key/value", request.num_kv_heads))
        for kind, number in heads:
            if number % shards:
                raise ValueError(
                    f"parallel.context={shards} does not divide the {number} {kind} heads of a "
                    "device, which parallel.context_attention=ulysses exchanges for positions; "
                    "lower parallel.context or set parallel.context_attention=all_gather"
                )
    parts = shards if way == "ulysses" else 2 * shards
    if request.num_queries % parts:
        raise ValueError(
            f"data.sequence_length: {request.num_queries} positions do not divide in {parts} "
            f"parts for parallel.context={shards}; make it a multiple of {parts}"
        )


def over_devices(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    *,
    layout: Layout,
    attend: Callable,
    blocks: BlockKernel | None,
) -> jax.Array:
    """Causal attention of global arrays, in the order that the layout deals positions out.

    attend: one device's kernel, as `attention_xla.attend` with its options given. blocks: its
    form for a ring.
    """
    num_shards = layout.degree("length")
    if num_shards == 1:
        local: Callable = partial(_whole_rows, attend=attend)
    elif layout.context_attention == "all_gather":
        local = partial(_all_gather, attend=attend, num_shards=num_shards)
    elif layout.context_attention == "ulysses":
        local = partial(_ulysses, attend=attend)
    else:
        assert blocks is not None
        local = partial(ring_attention, kernel=blocks, axis_name=AXIS, num_shards=num_shards)
    queries = ("batch", "length", "act_heads", None)
    keys = ("batch", "length", "act_kv_heads", None)
    return per_device(
        local, layout, in_axes=(queries, keys, keys, ("batch", "length")), out_axes=queries
    )(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT)


def _whole_rows(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array | None,
    *,
    attend: Callable,
) -> jax.Array:
    return attend(
        *(q_BTNH, k_BSKH, v_BSKH),
        query_segments_BT=segments_BT,
        key_segments_BS=segments_BT,
        shard=None,
    )


def _all_gather(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array | None,
    *,
    attend: Callable,
    num_shards: int,
) -> jax.Array:
    gather = partial(gather_in_order, axis_name=AXIS, num_shards=num_shards)
    return attend(
        *(q_BTNH, gather(k_BSKH), gather(v_BSKH)),
        query_segments_BT=segments_BT,
        key_segments_BS=None if segments_BT is None else gather(segments_BT),
        shard=Shard(num_shards, jax.lax.axis_index(AXIS)),
    )


def _ulysses(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    segments_BT: jax.Array | None,
    *,
    attend: Callable,
) -> jax.Array:
    heads_out = partial(jax.lax.all_to_all, axis_name=AXIS, split_axis=2, concat_axis=1, tiled=True)
    if segments_BT is not None:
        segments_BT = jax.lax.all_gather(segments_BT, AXIS, axis=1, tiled=True)
    out_BTNH = _whole_rows(
        heads_out(q_BTNH), heads_out(k_BSKH), heads_out(v_BSKH), segments_BT, attend=attend
    )
    return jax.lax.all_to_all(out_BTNH, AXIS, split_axis=1, concat_axis=2, tiled=True)
