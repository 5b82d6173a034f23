"""B batch, T new positions, S cache slots, D embed, K key/value heads, H head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.attention import Attention, Cache, Scores, extend
from jaxllm.nn.param import normal, spec_dict
from jaxllm.nn.rope import Rope

B, T, S, D, K, H = 2, 6, 10, 16, 2, 4


def make(**changes):
    options = {
        "embed_dim": D,
        "num_heads": 4,
        "num_kv_heads": K,
        "head_dim": H,
        "scores": Scores(rope=Rope(100.0)),
        "qk_norm": "head",
        "norm_epsilon": 1e-6,
        "has_centered_scale": False,
        "bias": "all",
        "init": normal(0.5),
        "output_init": normal(0.5),
    }
    return Attention(jax.random.key(0), **(options | changes))


def positions():
    return jnp.broadcast_to(jnp.arange(T), (B, T))


def inputs():
    return np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


def caller(layer):
    """The layer as a compiled function of x, positions, segments and cache."""

    def call(x, positions_BT, segment_ids_BT, cache):
        return layer(
            x, positions_BT=positions_BT, segment_ids_BT=segment_ids_BT, cache=cache, layout=None
        )

    return fast(call)


def run(layer, x, *, positions_BT):
    """The result without a cache, of one document a row."""
    return caller(layer)(x, positions_BT, None, None)[0]


def empty_cache():
    return Cache(jnp.zeros((B, S, K, H)), jnp.zeros((B, S, K, H)))


def test_in_pieces_through_a_cache_equals_at_once():
    layer, x = make(), inputs()
    whole = run(layer, x, positions_BT=positions())
    cache, pieces = empty_cache(), []
    call = caller(layer)
    for piece in (slice(0, 2), slice(2, 4), slice(4, T)):
        out, cache = call(x[:, piece], positions()[:, piece], None, cache)
        pieces.append(out)
    # Sums over ten slots instead of six, most of them times zero: float32 rounding.
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=0, atol=2e-6)


def test_a_cache_is_filled_at_each_rows_own_slots():
    new = jnp.ones((B, 2, K, H))
    slots = np.array([[0, 1], [4, 5]], np.int32)
    cache = extend(empty_cache(), new, 2 * new, slots)
    np.testing.assert_array_equal(cache.keys_BSKH[0, :, 0, 0], [1, 1, *[0] * 8])
    np.testing.assert_array_equal(cache.keys_BSKH[1, :, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(cache.values_BSKH, 2 * cache.keys_BSKH)


def test_rotary_positions_count_from_anywhere():
    layer, x = make(), inputs()
    here = run(layer, x, positions_BT=positions())
    there = run(layer, x, positions_BT=positions() + 50)
    # Angles of up to 55 are rounded by 4e-6.
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-4)
    spread = run(layer, x, positions_BT=positions() * 2)
    assert np.abs(here - spread).max() > 0.01


def test_without_rotary_positions_they_mean_nothing():
    layer, x = make(scores=Scores()), inputs()
    here = run(layer, x, positions_BT=positions())
    spread = run(layer, x, positions_BT=positions() * 2)
    np.testing.assert_array_equal(here, spread)


def test_qk_norm_bounds_the_scores():
    """Larger queries and keys change nothing; without the norm they do."""

    def change(**options):
        small, large = make(bias="none", **options), make(bias="none", **options)
        for projection in (large.query, large.key):
            projection.kernel[...] = 10 * projection.kernel[...]
        one, other = (run(layer, inputs(), positions_BT=positions()) for layer in (small, large))
        return np.abs(one - other).max()

    assert change(norm_epsilon=1e-12) < 1e-5  # float32 rounding of values of size one
    assert change(qk_norm="none") > 0.1


def test_biases_and_norms_are_there_only_if_asked_for():
    assert "query_norm" not in spec_dict(make(qk_norm="none"))
    assert "bias" not in spec_dict(make(bias="none"))["query"]
    assert spec_dict(make())["key"]["bias"].axes == ("kv_heads", "head_dim")
    assert spec_dict(make())["key_norm"]["scale"].axes == ("head_dim",)


def test_an_implementation_is_passed_on():
    with pytest.raises(ValueError, match=r"model\.attention"):
        run(make(scores=Scores(implementation="cudnn")), inputs(), positions_BT=positions())
