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
    key_segment_ids_BS: jax.Array | None = None,
    query_slots_BT: jax.Array | None = None,
    bias_NTS: jax.Array | None = None,
    prefix_BS: jax.Array | None = None,
    is_causal: bool = True,
    window: int | None = None,
    soft_cap: float | None = None,
    scale: float | None = None,
    implementation: Implementation = "auto",
    layout: Layout | None = None,
) -> jax.Array:
    """Grouped-query attention, softmax(q k / sqrt(H)) v, as (B, T, N, H); H of v may differ.

    segment_ids_BT: queries see only keys of their own segment. key_segment_ids_BS: those of the
    keys, where keys are of other rows than queries (not causal then); default the queries'.
    query_slots_BT: the index into S of each query, for decoding with a cache; default 0..T-1.
    bias_NTS: added to the scores. is_causal: whether queries see no key behind their own.
    prefix_BS: nonzero for keys that are seen by queries before them too (causal then).
    window: keys that a query sees, its own the last of them; default all before it.
    soft_cap: scores become cap * tanh(score / cap); default off. scale: default 1 / sqrt(H).
    layout: how the arrays lie on the mesh. Where it is zigzag they are in that order along T.
    ValueError if the implementation asked for cannot do what is asked: nothing is ever ignored.
    """
    assert q_BTNH.shape[2] % k_BSKH.shape[2] == 0, (q_BTNH.shape, k_BSKH.shape)
    assert segment_ids_BT is None or query_slots_BT is None, "a cache holds one document a row"
    is_cross = key_segment_ids_BS is not None or (
        query_slots_BT is None and q_BTNH.shape[1] != k_BSKH.shape[1]
    )
    assert not (is_causal and is_cross), (q_BTNH.shape, k_BSKH.shape)
    assert is_causal or (window is None and query_slots_BT is None and prefix_BS is None)
    if scale is not None and scale != (usual := q_BTNH.shape[3] ** -0.5):
        q_BTNH = q_BTNH * (scale / usual)  # kernels have the usual one built in
    request = describe(
        q_BTNH,
        k_BSKH,
        has_segments=segment_ids_BT is not None,
        has_cache=query_slots_BT is not None,
        window=window,
        soft_cap=soft_cap,
        layout=layout,
        is_causal=is_causal,
        is_cross=is_cross,
        has_bias=bias_NTS is not None,
        has_prefix=prefix_BS is not None,
    )
    if request.context_attention is not None:
        attention_context.check(request)
    implementation = choose(implementation, request)
    if query_slots_BT is not None:
        mask_BTS = attention_xla.attention_mask(
            query_slots_BT, k_BSKH.shape[1], prefix_BS=prefix_BS, window=window
        )
        return attention_xla.masked_attention(
            q_BTNH, k_BSKH, v_BSKH, mask_BTS, soft_cap=soft_cap, bias_NTS=bias_NTS
        )
    attend, blocks = _kernels(implementation, window=window, soft_cap=soft_cap, layout=layout)
    if not is_causal:
        attend = partial(attend, is_causal=False)
    if bias_NTS is not None:
        attend = partial(attend, bias_NTS=bias_NTS)
    if prefix_BS is not None:
        attend = partial(attend, prefix_BS=prefix_BS)
    is_local = layout is None or (implementation == "xla" and request.context_attention is None)
    if is_local:  # plain JAX is divided over the mesh by the compiler
        out_BTNH = attend(
            *(q_BTNH, k_BSKH, v_BSKH),
            query_segments_BT=segment_ids_BT,
            key_segments_BS=key_segment_ids_BS if is_cross else segment_ids_BT,
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
