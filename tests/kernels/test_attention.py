"""B batch, T queries, S keys, N query heads, K key/value heads, H head dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.kernels.attention import attention, choose
from jaxllm.kernels.attention_request import describe
from jaxllm.parallel.mesh import ParallelConfig

from . import attention_reference as in_float64
from .test_attention_splash import request_for

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
    ("window", "soft_cap", "has_cache"),
    [(1, None, False), (5, 0.5, False), (5, 0.5, True)],
)
def test_window_and_soft_cap(window, soft_cap, has_cache):
    q, k, v = random_qkv("float32", num_keys=S if has_cache else T)
    slots_BT = np.stack([np.arange(T), np.arange(T) + 7 * has_cache]).astype(np.int32)
    mask = np.arange(k.shape[1]) <= slots_BT[..., None]
    mask &= np.arange(k.shape[1]) > slots_BT[..., None] - window
    out = fast(attention, static_argnames=("window", "soft_cap"))(
        *(q, k, v),
        query_slots_BT=slots_BT if has_cache else None,
        window=window,
        soft_cap=soft_cap,
    )
    exact = in_float64.reference(q, k, v, np.zeros(q.shape), mask_BTS=mask, soft_cap=soft_cap)[0]
    check(out, exact, "float32")


@pytest.mark.parametrize(("window", "has_cache"), [(None, False), (4, False), (None, True)])
def test_a_prefix_is_seen_from_before_it_too(window, has_cache):
    """Within a window that reaches as far ahead as back; in a cache, of its first slots."""
    num_keys = S if has_cache else T
    q, k, v = random_qkv("float32", num_keys=num_keys)
    prefix_BS = jnp.arange(num_keys) < jnp.array([[5], [0]])

    def may_look(row, query, key):
        is_near = window is None or abs(query - key) < window
        return is_near and bool(key <= query or prefix_BS[row, key])

    slots_BT = jnp.broadcast_to(jnp.arange(T), (B, T)) if has_cache else None
    run = fast(
        lambda *qkv: attention(*qkv, prefix_BS=prefix_BS, window=window, query_slots_BT=slots_BT)
    )
    check(run(q, k, v), reference(q, k, v, may_look), "float32")


@pytest.mark.parametrize("implementation", ["splash", "cudnn"])
def test_a_kernel_of_another_platform_is_refused(implementation):
    with pytest.raises(ValueError, match=rf"model\.attention: {implementation} cannot.*cpu.*xla"):
        attention(*random_qkv("bfloat16"), implementation=implementation)


@pytest.mark.parametrize(
    ("platform", "changes", "chosen"),
    [
        ("tpu", {}, "splash"),
        ("tpu", {"dtype": "float32"}, "splash"),
        ("tpu", {"num_queries": 200}, "xla"),
        ("tpu", {"has_cache": True}, "xla"),
        ("tpu", {"has_prefix": True}, "xla"),
        ("gpu", {"soft_cap": None}, "cudnn"),
        ("gpu", {"soft_cap": 30.0}, "xla"),
        ("gpu", {"soft_cap": None, "dtype": "float32"}, "xla"),
        ("gpu", {"soft_cap": None, "has_prefix": True}, "xla"),
        ("cpu", {}, "xla"),
    ],
)
def test_auto_takes_the_fast_kernel_only_where_it_can_do_all(platform, changes, chosen):
    request = request_for(platform=platform, **changes)
    assert choose("auto", request) == chosen
    assert choose("xla", request) == "xla"


def test_the_platform_is_the_layouts_and_not_this_machines(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    layout = ParallelConfig().build(jax.devices()[:1])
    q, k, _ = random_qkv("float16")
    options = {"has_segments": False, "has_cache": False, "window": None, "soft_cap": None}
    assert describe(q, k, layout=layout, **options).platform == "cpu"
    assert describe(q, k, layout=None, **options).platform == "gpu"
