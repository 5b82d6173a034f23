"""N tokens, K copies, S slots, D features."""

import jax
import numpy as np

from jaxllm.kernels.row_moves import from_slots, to_slots

N, K, S, D = 5, 2, 12, 3


def moves():
    """Most copies in slots at random, three nowhere, and slots that hold nothing."""
    rng = np.random.default_rng(0)
    sources_S = np.full(S, N * K, np.int32)
    slots_NK = np.full((N, K), S, np.int32)
    copies = rng.permutation(N * K)[:-3]
    for slot, copy in zip(rng.permutation(S), copies, strict=False):
        sources_S[slot] = copy
        slots_NK[copy // K, copy % K] = slot
    return sources_S, slots_NK


def test_rows_come_where_the_moves_say_and_back():
    sources_S, slots_NK = moves()
    x_ND = np.random.default_rng(1).normal(size=(N, D)).astype(np.float32)
    rows_SD = np.asarray(to_slots(x_ND, sources_S, slots_NK))
    for slot, copy in enumerate(sources_S):
        expected = x_ND[copy // K] if copy < N * K else np.zeros(D)
        np.testing.assert_array_equal(rows_SD[slot], expected)
    back_NKD = np.asarray(from_slots(rows_SD, sources_S, slots_NK))
    is_held = (slots_NK < S)[..., None]
    np.testing.assert_array_equal(back_NKD, np.where(is_held, x_ND[:, None], 0))


def test_gradients_are_the_transposes():
    """<g, A x> = <A^T g, x>, for integers exactly."""
    rng = np.random.default_rng(2)
    x_ND, y_SD = (rng.integers(-9, 9, (rows, D)).astype(np.float32) for rows in (N, S))
    g_NKD = rng.integers(-9, 9, (N, K, D)).astype(np.float32)
    sources_S, slots_NK = moves()
    rows_SD, pull = jax.vjp(lambda x: to_slots(x, sources_S, slots_NK), x_ND)
    assert np.sum(y_SD * rows_SD) == np.sum(pull(y_SD)[0] * x_ND)
    out_NKD, pull = jax.vjp(lambda y: from_slots(y, sources_S, slots_NK), y_SD)
    assert np.sum(g_NKD * out_NKD) == np.sum(pull(g_NKD)[0] * y_SD)


def test_what_lies_in_empty_slots_is_never_read():
    sources_S, slots_NK = moves()
    is_empty = (sources_S == N * K)[:, None]
    y_SD = np.where(is_empty, np.nan, 1.0).astype(np.float32)
    out_NKD, pull = jax.vjp(lambda y: from_slots(y, sources_S, slots_NK), y_SD)
    assert np.isfinite(out_NKD).all()
    assert not np.any(np.where(is_empty, pull(np.ones_like(out_NKD))[0], 0))
    y_SD = np.broadcast_to(y_SD, (S, D))
    _, pull = jax.vjp(lambda x: to_slots(x, sources_S, slots_NK), np.ones((N, D), np.float32))
    assert np.isfinite(pull(y_SD)[0]).all()
