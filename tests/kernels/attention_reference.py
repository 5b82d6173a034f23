"""Attention and its gradients by the definition, in float64.

B batch, T positions, N query heads, K key/value heads, H head dimension.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import fast

# Of float32 results: a dozen roundings of 6e-8, and sums of some hundred terms in another order,
# on values of up to about ten.
TOLERANCE = 5e-6


def random_case(length, *, num_heads=4, num_kv_heads=2, head_dim=8, rows=2, documents=4, seed=0):
    """(q, k, v, the result's gradient), float32, and segments (B, T) of packed documents."""
    rng = np.random.default_rng(seed)
    heads = (num_heads, num_kv_heads, num_kv_heads, num_heads)
    arrays = [rng.normal(size=(rows, length, n, head_dim)).astype(np.float32) for n in heads]
    segments = np.cumsum(rng.random((rows, length)) < documents / length, axis=1)
    return arrays, segments.astype(np.int32)


def causal_mask(length, *, segments_BT=None, window=None):
    """(B or 1, T, T): which key each query sees."""
    query, key = np.arange(length)[:, None], np.arange(length)[None]
    mask = (key <= query) & (key > query - (window or length))
    if segments_BT is None:
        return mask[None]
    return mask & (segments_BT[:, :, None] == segments_BT[:, None])


def reference(q, k, v, g, *, mask_BTS, soft_cap=None):
    """(result, dq, dk, dv)."""
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5
    k, v = k.repeat(group, axis=2), v.repeat(group, axis=2)
    scores = scale * np.einsum("btnh,bsnh->bnts", q, k)
    slope = 1.0
    if soft_cap is not None:
        scores = soft_cap * np.tanh(scores / soft_cap)
        slope = 1 - (scores / soft_cap) ** 2
    weights = np.where(mask_BTS[:, None], np.exp(scores), 0)
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bnts,bsnh->btnh", weights, v)
    dweights = np.einsum("btnh,bsnh->bnts", g, v)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True)) * slope
    dq = scale * np.einsum("bnts,bsnh->btnh", dscores, k)
    dk = scale * np.einsum("bnts,btnh->bsnh", dscores, q)
    dv = np.einsum("bnts,btnh->bsnh", weights, g)
    dk, dv = (x.reshape(*x.shape[:2], -1, group, x.shape[3]).sum(axis=3) for x in (dk, dv))
    return out, dq, dk, dv


def with_gradients(attend, q, k, v, g):
    """(result, dq, dk, dv) of a function of q, k and v."""

    def loss(q, k, v):
        out = attend(q, k, v)
        return jnp.sum(out * g), out

    gradients, out = fast(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


def check(results, expected):
    """Every one of (result, dq, dk, dv) is the reference's."""
    for name, result, exact in zip(("out", "dq", "dk", "dv"), results, expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=0, atol=TOLERANCE, err_msg=name)
