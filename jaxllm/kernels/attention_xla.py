"""Attention in plain JAX: the reference of every kernel, and what CPUs run.

B batch, T queries, S keys, N query heads, K key/value heads, G = N / K, H head dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.parallel.zigzag import Shard, shard_positions

# Of masked scores where a query may see no key at all: finite, so that differences of two are
# numbers, and far enough below every score that such a block's weight beside another is 0.
MASKED = -0.7 * float(np.finfo(np.float32).max)


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
    bias_NTS: jax.Array | None = None,
    prefix_BS: jax.Array | None = None,
) -> jax.Array:
    """One device's attention. shard: the part of S that the queries are; None is all.

    bias_NTS: what is added to the scores. prefix_BS: see `attention_mask`.
    """
    num_keys = k_BSKH.shape[1]
    if is_causal:
        slots_T = jnp.arange(num_keys) if shard is None else shard_positions(num_keys, shard)
        mask_BTS = attention_mask(
            slots_T[None],
            num_keys,
            query_segments_BT=query_segments_BT,
            key_segments_BS=key_segments_BS,
            prefix_BS=prefix_BS,
            window=window,
        )
    else:
        mask_BTS = same_segment(query_segments_BT, key_segments_BS)
    return masked_attention(q_BTNH, k_BSKH, v_BSKH, mask_BTS, soft_cap=soft_cap, bias_NTS=bias_NTS)


def attention_mask(
    query_slots_BT: jax.Array,
    num_keys: int,
    *,
    query_segments_BT: jax.Array | None = None,
    key_segments_BS: jax.Array | None = None,
    prefix_BS: jax.Array | None = None,
    window: int | None = None,
) -> jax.Array:
    """True where a query may look, as (B or 1, T, S).

    query_slots_BT: (B or 1, T), the index into S of each query. prefix_BS: nonzero for keys that
    queries before them see too. window: keys that a query sees, its own the last of them, and in
    a prefix as many from its own on.
    """
    keys_S = jnp.arange(num_keys)
    mask_BTS = query_slots_BT[:, :, None] >= keys_S[None, None, :]
    if prefix_BS is not None:
        ahead_BTS = (prefix_BS != 0)[:, None, :]
        if window is not None:
            ahead_BTS &= keys_S[None, None, :] < query_slots_BT[:, :, None] + window
        mask_BTS = mask_BTS | ahead_BTS
    if window is not None:
        mask_BTS = mask_BTS & (keys_S[None, None, :] > query_slots_BT[:, :, None] - window)
    same_BTS = same_segment(query_segments_BT, key_segments_BS)
    return mask_BTS if same_BTS is None else mask_BTS & same_BTS


def same_segment(
    query_segments_BT: jax.Array | None, key_segments_BS: jax.Array | None
) -> jax.Array | None:
    """True where query and key are of one document, as (B, T, S); None without documents."""
    if query_segments_BT is None or key_segments_BS is None:
        return None
    return query_segments_BT[:, :, None] == key_segments_BS[:, None, :]


def masked_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask_BTS: jax.Array | None,
    *,
    soft_cap: float | None = None,
    bias_NTS: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k / sqrt(H) + bias) v where the mask is True; scores and softmax in float32.

    Heads of v may have another width; None masks nothing.
    """
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
    scores_BKGTS = capped(scores_BKMS, soft_cap).reshape(B, K, N // K, T, S)
    if bias_NTS is not None:
        scores_BKGTS = scores_BKGTS + bias_NTS.astype(jnp.float32).reshape(K, N // K, T, S)
    if mask_BTS is not None:
        scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, -jnp.inf)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    out_BKMH = jnp.einsum("BKMS,BKSH->BKMH", weights_BKGTS.reshape(B, K, -1, S), v_BKSH)
    out_BKGTH = out_BKMH.reshape(B, K, N // K, T, -1)
    return out_BKGTH.transpose(0, 3, 1, 2, 4).reshape(B, T, N, -1)


def capped(scores: jax.Array, soft_cap: float | None) -> jax.Array:
    """Scores within ±soft_cap, by a tanh (arXiv:2408.00118); unchanged if None."""
    return scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)


def block_forward(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    *,
    is_causal: bool,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Attention to some of the keys: (result (B, N, T, H), log-sum-exp of its scores (B, N, T)).

    The queries carry their scale already; the log-sum-exp, in float32, says how much these keys
    weigh beside others. is_causal: T == S, and query t sees keys 0..t; otherwise it sees all.
    """
    scores_BKGTS, _ = _block_scores(
        q_BNTH, k_BKSH, query_segments_BT, key_segments_BS, is_causal=is_causal, soft_cap=soft_cap
    )
    log_normalizer_BKGT = jax.nn.logsumexp(scores_BKGTS, axis=-1)
    weights_BKGTS = jnp.exp(scores_BKGTS - log_normalizer_BKGT[..., None])
    out_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", weights_BKGTS.astype(v_BKSH.dtype), v_BKSH)
    return out_BKGTH.reshape(q_BNTH.shape), log_normalizer_BKGT.reshape(q_BNTH.shape[:3])


def block_backward(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    out_BNTH: jax.Array,
    log_normalizer_BNT: jax.Array,
    g_BNTH: jax.Array,
    *,
    is_causal: bool,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The part of (dq, dk, dv) that these keys contribute.

    out_BNTH and log_normalizer_BNT are of the attention to all keys: then the parts of disjoint
    sets of keys add up to the whole gradient (arXiv:2205.14135, section 3.1 and appendix B).
    """
    grouped = (*k_BKSH.shape[:2], -1, *q_BNTH.shape[2:])
    scores_BKGTS, slope_BKGTS = _block_scores(
        q_BNTH, k_BKSH, query_segments_BT, key_segments_BS, is_causal=is_causal, soft_cap=soft_cap
    )
    weights_BKGTS = jnp.exp(scores_BKGTS - log_normalizer_BNT.reshape(grouped[:4])[..., None])
    g_BKGTH = g_BNTH.reshape(grouped).astype(jnp.float32)
    total_BKGT = jnp.sum(g_BKGTH * out_BNTH.reshape(grouped).astype(jnp.float32), axis=-1)
    dv_BKSH = jnp.einsum("BKGTS,BKGTH->BKSH", weights_BKGTS, g_BKGTH)
    dweights_BKGTS = jnp.einsum("BKGTH,BKSH->BKGTS", g_BKGTH, v_BKSH.astype(jnp.float32))
    dscores_BKGTS = weights_BKGTS * (dweights_BKGTS - total_BKGT[..., None]) * slope_BKGTS
    dk_BKSH = jnp.einsum("BKGTS,BKGTH->BKSH", dscores_BKGTS, q_BNTH.reshape(grouped))
    dq_BKGTH = jnp.einsum("BKGTS,BKSH->BKGTH", dscores_BKGTS, k_BKSH)
    dq_BNTH = dq_BKGTH.reshape(q_BNTH.shape).astype(q_BNTH.dtype)
    return dq_BNTH, dk_BKSH.astype(k_BKSH.dtype), dv_BKSH.astype(v_BKSH.dtype)


def _block_scores(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    *,
    is_causal: bool,
    soft_cap: float | None,
) -> tuple[jax.Array, jax.Array | float]:
    """Masked scores (B, K, G, T, S) in float32, and their slope by the scores before the cap."""
    q_BKGTH = q_BNTH.reshape(*k_BKSH.shape[:2], -1, *q_BNTH.shape[2:])
    scores_BKGTS = jnp.einsum(
        "BKGTH,BKSH->BKGTS", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32
    )
    slope: jax.Array | float = 1.0
    if soft_cap is not None:
        scores_BKGTS = capped(scores_BKGTS, soft_cap)
        slope = 1.0 - jnp.square(scores_BKGTS / soft_cap)
    T, S = scores_BKGTS.shape[-2:]
    slots_BT = jnp.arange(T)[None] if is_causal else jnp.full((1, T), S)
    mask_BTS = attention_mask(
        slots_BT, S, query_segments_BT=query_segments_BT, key_segments_BS=key_segments_BS
    )
    return jnp.where(mask_BTS[:, None, None], scores_BKGTS, MASKED), slope
