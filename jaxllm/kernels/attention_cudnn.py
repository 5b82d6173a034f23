"""Attention on NVIDIA GPUs: cuDNN's flash kernel, through JAX's public function.

B batch, T queries, S keys, N query heads, K key/value heads, H head dimension.

cuDNN knows causal masks and windows itself. Segments, and the queries of one shard of a long
context, become a mask: one number in the inputs' precision for each pair of positions of a row,
shared by its heads.
"""

import jax

from jaxllm.kernels.attention_request import AttentionRequest
from jaxllm.kernels.attention_xla import attention_mask
from jaxllm.parallel.zigzag import Shard, shard_positions

MAX_HEAD_DIM = 128  # cuDNN's limit before Hopper


def why_not(request: AttentionRequest) -> str | None:
    """What cuDNN could not do or would ignore of a request, or None."""
    if request.has_cache:
        return "a key/value cache"
    if request.dtype not in ("bfloat16", "float16"):
        return f"{request.dtype} (only bfloat16 and float16)"
    if request.platform != "gpu":
        return f"the platform {request.platform} (only NVIDIA GPUs)"
    if request.soft_cap is not None:
        return "a soft cap on scores"
    if request.has_bias or request.is_cross:
        return "a bias on scores" if request.has_bias else "queries and keys of different rows"
    if request.has_prefix:
        return "a prefix that is seen as a whole"
    if request.head_dim % 8 or request.head_dim > MAX_HEAD_DIM:
        return f"heads of {request.head_dim} (only multiples of 8 up to {MAX_HEAD_DIM})"
    if request.num_queries % 2:
        return f"{request.num_queries} positions (only even numbers)"
    if request.context_attention == "ring":
        return "parallel.context_attention=ring (only all_gather and ulysses)"
    return None


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    shard: Shard | None,
    window: int | None,
    soft_cap: float | None,
    is_causal: bool = True,
) -> jax.Array:
    """As `attention_xla.attend`."""
    assert soft_cap is None
    if shard is not None:
        num_keys = k_BSKH.shape[1]
        mask_BTS = attention_mask(
            shard_positions(num_keys, shard)[None],
            num_keys,
            query_segments_BT=query_segments_BT,
            key_segments_BS=key_segments_BS,
            window=window,
        )
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None], implementation="cudnn"
        )
    mask_B1TS = None
    if query_segments_BT is not None and key_segments_BS is not None:
        mask_B1TS = (query_segments_BT[:, :, None] == key_segments_BS[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BSKH,
        v_BSKH,
        mask=mask_B1TS,
        is_causal=is_causal,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
