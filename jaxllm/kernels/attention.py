"""Attention through one function, which picks the best implementation for the platform.

B batch, T queries, S keys, N query heads, K key/value heads, G = N / K, H head dimension.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["auto", "xla", "cudnn"]


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    query_slots_BT: jax.Array | None = None,
    implementation: Implementation = "auto",
) -> jax.Array:
    """Causal grouped-query attention, softmax(q k / sqrt(H)) v, as (B, T, N, H).

    segment_ids_BT: queries see only keys of their own segment (needs T == S).
    query_slots_BT: the index into S of each query, for decoding with a cache; default 0..T-1.
    ValueError if the implementation asked for cannot do what is asked: nothing is ever ignored.
    """
    assert q_BTNH.shape[2] % k_BSKH.shape[2] == 0, (q_BTNH.shape, k_BSKH.shape)
    assert segment_ids_BT is None or query_slots_BT is None, "a cache holds one document a row"
    if implementation == "auto":
        implementation = _best(q_BTNH, segment_ids_BT, query_slots_BT)
    if implementation == "cudnn":
        reason = _why_not_cudnn(q_BTNH, segment_ids_BT, query_slots_BT)
        if reason:
            raise ValueError(
                f"model.attention: cudnn cannot do {reason}; set model.attention to auto or xla"
            )
        return jax.nn.dot_product_attention(
            q_BTNH, k_BSKH, v_BSKH, is_causal=True, implementation="cudnn"
        )
    mask = attention_mask(k_BSKH.shape[1], segment_ids_BT, query_slots_BT, q_BTNH.shape[1])
    return masked_attention(q_BTNH, k_BSKH, v_BSKH, mask)


def _best(q: jax.Array, segment_ids: jax.Array | None, slots: jax.Array | None) -> Implementation:
    on_gpu = jax.default_backend() == "gpu"
    return "cudnn" if on_gpu and not _why_not_cudnn(q, segment_ids, slots) else "xla"


def _why_not_cudnn(
    q_BTNH: jax.Array, segment_ids: jax.Array | None, slots: jax.Array | None
) -> str | None:
    """What cuDNN's flash attention would have to ignore, or None."""
    if segment_ids is not None:
        return "segment ids (packed documents)"
    if slots is not None:
        return "a key/value cache"
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"{q_BTNH.dtype} (only bfloat16 and float16)"
    if jax.default_backend() != "gpu":
        return f"the platform {jax.default_backend()} (only NVIDIA GPUs)"
    return None


def attention_mask(
    num_keys: int,
    segment_ids_BT: jax.Array | None,
    query_slots_BT: jax.Array | None,
    num_queries: int,
) -> jax.Array:
    """True where a query may look, as (B or 1, T, S)."""
    keys_S = jnp.arange(num_keys)
    slots_BT = jnp.arange(num_queries)[None, :] if query_slots_BT is None else query_slots_BT
    mask_BTS = slots_BT[:, :, None] >= keys_S[None, None, :]
    if segment_ids_BT is not None:
        mask_BTS = mask_BTS & (segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :])
    return mask_BTS


def masked_attention(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array
) -> jax.Array:
    """The plain reference, and what CPUs run: scores and softmax in float32."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    # Heads first, and the queries that share a key head as one matrix: products that a CPU's
    # matmul library takes as they are, forward and backward.
    q_BKGTH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BKSH, v_BKSH = k_BSKH.swapaxes(1, 2), v_BSKH.swapaxes(1, 2)
    # float32 because bf16 scores lose the small differences between large logits.
    scores_BKMS = jnp.einsum(
        "BKMH,BKSH->BKMS",
        q_BKGTH.reshape(B, K, -1, H),
        k_BKSH,
        preferred_element_type=jnp.float32,
    )
    scores_BKGTS = scores_BKMS.reshape(B, K, N // K, T, S)
    scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, -jnp.inf)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BKMH = jnp.einsum("BKMS,BKSH->BKMH", weights_BKGTS.reshape(B, K, -1, S), v_BKSH)
    out_BKGTH = out_BKMH.reshape(B, K, N // K, T, H)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
