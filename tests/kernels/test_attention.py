"""B batch, T queries, S keys, N query heads, K key/value heads, H head dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.kernels.attention import attention

B, T, S, N, H = 2, 12, 20, 4, 8

# float32: a dozen roundings of 6e-8 on values of size one. bfloat16: inputs, weights and result
# are each rounded to 8 bits, 2^-8 = 4e-3 on values of up to about two.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


def random_qkv(dtype, *, num_keys=T, num_kv_heads=2, seed=0):
    """Arrays of `dtype` whose values float64 can repeat exactly."""
    rng = np.random.default_rng(seed)
    shapes = [(B, T, N, H), (B, num_keys, num_kv_heads, H), (B, num_keys, num_kv_heads, H)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def reference(q_BTNH, k_BSKH, v_BSKH, may_look):
    """The definition in float64, one query at a time; may_look(row, query, key) -> bool."""
    q, k, v = (np.asarray(x.astype(jnp.float32), np.float64) for x in (q_BTNH, k_BSKH, v_BSKH))
    group = q.shape[2] // k.shape[2]
    out = np.zeros(q.shape)
    for row, query, head in np.ndindex(q.shape[:3]):
        keys = [key for key in range(k.shape[1]) if may_look(row, query, key)]
        scores = k[row, keys, head // group] @ q[row, query, head] / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        out[row, query, head] = weights / weights.sum() @ v[row, keys, head // group]
    return out


def check(result, expected, dtype):
    assert result.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(result.astype(jnp.float32)), expected, rtol=0, atol=TOLERANCE[dtype]
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_causal_and_grouped(dtype, num_kv_heads):
    qkv = random_qkv(dtype, num_kv_heads=num_kv_heads)
    expected = reference(*qkv, lambda row, query, key: key <= query)
    check(fast(attention)(*qkv), expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_segments(dtype):
    qkv = random_qkv(dtype)
    segments_BT = np.array([[0] * 5 + [1] * 4 + [2] * 3, [0] + [1] * 11], np.int32)
    expected = reference(
        *qkv,
        lambda row, query, key: key <= query and segments_BT[row, key] == segments_BT[row, query],
    )
    check(fast(attention)(*qkv, segment_ids_BT=segments_BT), expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cache_slots(dtype):
    """Each row's queries stand at slots of their own, and see no slot above."""
    qkv = random_qkv(dtype, num_keys=S)
    slots_BT = np.stack([np.arange(T), np.arange(T) + 7]).astype(np.int32)
    expected = reference(*qkv, lambda row, query, key: key <= slots_BT[row, query])
    check(fast(attention)(*qkv, query_slots_BT=slots_BT), expected, dtype)


def test_another_segment_changes_nothing():
    q, k, v = random_qkv("float32")
    segments_BT = jnp.asarray([[0] * 6 + [1] * 6] * B)
    run = fast(attention)
    before = run(q, k, v, segment_ids_BT=segments_BT)
    after = run(q, k.at[:, :6].add(3.0), v.at[:, :6].add(3.0), segment_ids_BT=segments_BT)
    # A masked weight is exactly zero, so equality is exact.
    np.testing.assert_array_equal(before[:, 6:], after[:, 6:])
    assert np.all(np.any(before[:, :6] != after[:, :6], axis=(0, 2, 3)))


def test_large_scores_neither_overflow_nor_lose_the_winner():
    q, k, v = random_qkv("float32")
    expected = reference(1e3 * q, k, v, lambda row, query, key: key <= query)
    # Scores of size 1e3 carry roundings of 6e-5, which the weights show as they are.
    np.testing.assert_allclose(fast(attention)(1e3 * q, k, v), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "extra", "reason"),
    [
        ("bfloat16", {"segment_ids_BT": jnp.zeros((B, T), jnp.int32)}, "segment ids"),
        ("bfloat16", {"query_slots_BT": jnp.zeros((B, T), jnp.int32)}, "a key/value cache"),
        ("float32", {}, "float32"),
        ("bfloat16", {}, "the platform cpu"),
    ],
)
def test_cudnn_is_refused_where_it_would_ignore_something(dtype, extra, reason):
    with pytest.raises(ValueError, match=f"model.attention: cudnn cannot do {reason}.*xla"):
        attention(*random_qkv(dtype), implementation="cudnn", **extra)


def test_auto_on_a_gpu_takes_cudnn_only_where_it_can_do_all(monkeypatch):
    calls = []

    def fake(q, k, v, **options):
        calls.append(options)
        return q

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", fake)
    attention(*random_qkv("bfloat16"))
    assert calls == [{"is_causal": True, "implementation": "cudnn"}]
    attention(*random_qkv("float32"))
    attention(*random_qkv("bfloat16"), segment_ids_BT=jnp.zeros((B, T), jnp.int32))
    attention(*random_qkv("bfloat16"), query_slots_BT=jnp.zeros((B, T), jnp.int32))
    assert len(calls) == 1


def test_xla_stays_xla_on_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.delattr(jax.nn, "dot_product_attention")
    attention(*random_qkv("bfloat16"), implementation="xla")
