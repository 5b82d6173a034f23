"""Attention through one function, which picks the best implementation for the platform.

B batch, T queries, S keys, N query heads, K key/value heads, H head dimension.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
from jax.ad_checkpoint import checkpoint_name

from jaxllm.hardware import find_chip
from jaxllm.kernels import (
    attention_context,
    attention_cudnn,
    attention_splash,
    attention_xla,
)
from jaxllm.kernels.attention_request import AttentionRequest, describe
from jaxllm.kernels.attention_ring import BlockKernel
from jaxllm.parallel.layouts import Layout

Implementation = Literal["auto", "xla", "splash", "cudnn"]

_WHY_NOT: dict[Implementation, Callable[[AttentionRequest], str | None]] = {
    "splash": attention_splash.why_not,
    "cudnn": attention_cudnn.why_not,
}


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    query_slots_BT: jax.Array | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    implementation: Implementation = "auto",
    layout: Layout | None = None,
) -> jax.Array:
    """Causal grouped-query attention, softmax(q k / sqrt(H)) v, as (B, T, N, H).

    segment_ids_BT: queries see only keys of their own segment (needs T == S).
    query_slots_BT: the index into S of each query, for decoding with a cache; default 0..T-1.
    window: keys that a query sees, its own the last of them; default all before it.
    soft_cap: scores become cap * tanh(score / cap); default off.
    layout: how the arrays lie on the mesh. Where it is zigzag they are in that order along T.
    ValueError if the implementation asked for cannot do what is asked: nothing is ever ignored.
    """
    assert q_BTNH.shape[2] % k_BSKH.shape[2] == 0, (q_BTNH.shape, k_BSKH.shape)
    assert segment_ids_BT is None or query_slots_BT is None, "a cache holds one document a row"
    assert query_slots_BT is not None or q_BTNH.shape[1] == k_BSKH.shape[1]
    request = describe(
        q_BTNH,
        k_BSKH,
        has_segments=segment_ids_BT is not None,
        has_cache=query_slots_BT is not None,
        window=window,
        soft_cap=soft_cap,
        layout=layout,
    )
    if request.context_attention is not None:
        attention_context.check(request)
    implementation = choose(implementation, request)
    if query_slots_BT is not None:
        mask_BTS = attention_xla.attention_mask(query_slots_BT, k_BSKH.shape[1], window=window)
        return attention_xla.masked_attention(q_BTNH, k_BSKH, v_BSKH, mask_BTS, soft_cap=soft_cap)
    attend, blocks = _kernels(implementation, window=window, soft_cap=soft_cap, layout=layout)
    is_local = layout is None or (implementation == "xla" and request.context_attention is None)
    if is_local:  # plain JAX is divided over the mesh by the compiler
        out_BTNH = attend(
            *(q_BTNH, k_BSKH, v_BSKH),
            query_segments_BT=segment_ids_BT,
            key_segments_BS=segment_ids_BT,
            shard=None,
        )
    else:
        assert layout is not None
        out_BTNH = attention_context.over_devices(
            *(q_BTNH, k_BSKH, v_BSKH, segment_ids_BT), layout=layout, attend=attend, blocks=blocks
        )
    if implementation == "splash" or request.context_attention == "ring":
        return out_BTNH  # which name their result for remat themselves, and the log-sum-exp with it
    return checkpoint_name(out_BTNH, "attention")


def choose(implementation: Implementation, request: AttentionRequest) -> Implementation:
    """The implementation that will run. ValueError if the one asked for cannot do the request."""
    if implementation == "auto":
        fastest: dict[str, Implementation] = {"tpu": "splash", "gpu": "cudnn"}
        candidate = fastest.get(request.platform)
        return candidate if candidate and not _WHY_NOT[candidate](request) else "xla"
    reason = _WHY_NOT[implementation](request) if implementation in _WHY_NOT else None
    if reason:
        raise ValueError(
            f"model.attention: {implementation} cannot do {reason}; set model.attention to auto "
            "or xla"
        )
    return implementation


def _kernels(
    implementation: Implementation,
    *,
    window: int | None,
    soft_cap: float | None,
    layout: Layout | None,
) -> tuple[Callable, BlockKernel | None]:
    """One device's attention to whole rows, and, where there is one, its form for a ring."""
    if implementation == "cudnn":
        return partial(attention_cudnn.attend, window=window, soft_cap=soft_cap), None
    if implementation == "xla":
        blocks = BlockKernel(
            partial(attention_xla.block_forward, soft_cap=soft_cap),
            partial(attention_xla.block_backward, soft_cap=soft_cap),
        )
        return partial(attention_xla.attend, window=window, soft_cap=soft_cap), blocks
    assert implementation == "splash", implementation
    chip = find_chip(jax.devices()[0].device_kind) if layout is None else layout.chip
    name = None if chip is None else chip.name
    blocks = BlockKernel(
        partial(attention_splash.block_forward, soft_cap=soft_cap, chip=name),
        partial(attention_splash.block_backward, soft_cap=soft_cap, chip=name),
    )
    return partial(attention_splash.attend, window=window, soft_cap=soft_cap, chip=name), blocks
