"""R buckets, N heads, T queries, S keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.param import bind, normal, spec_dict
from jaxllm.nn.relative_bias import RelativeBias, bucket_of, bucket_starts

HEADS = 3


def make(*, is_bidirectional, num_buckets=8, max_distance=12):
    return RelativeBias(
        jax.random.key(0),
        num_heads=HEADS,
        num_buckets=num_buckets,
        max_distance=max_distance,
        is_bidirectional=is_bidirectional,
        init=normal(1.0),
    )


def run(bias, positions, num_keys):
    return np.asarray(fast(lambda positions: bias(positions, num_keys, layout=None))(positions))


def test_t5s_buckets():
    """Of the 16 that each direction has in every published T5."""
    assert bucket_starts(16, 128) == [*range(1, 9), 12, 16, 23, 32, 46, 64, 91]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 128), (8, 12), (10, 33)])
def test_buckets_grow_as_the_logarithm_of_the_distance(num_buckets, max_distance):
    distances = np.arange(1, 2 * max_distance)
    exact = num_buckets // 2
    growth = np.log(distances / exact) / np.log(max_distance / exact) * (num_buckets - exact)
    # What is a whole number in exact arithmetic must not fall below it by rounding.
    far = np.minimum(exact + np.floor(growth + 1e-9), num_buckets - 1)
    expected = np.where(distances < exact, distances, far)
    starts = bucket_starts(num_buckets, max_distance)
    np.testing.assert_array_equal(np.searchsorted(starts, distances, side="right"), expected)


def test_directions():
    ahead = np.arange(-20, 21)
    options = {"num_buckets": 8, "max_distance": 12}
    both = np.asarray(bucket_of(ahead, is_bidirectional=True, **options))
    # Behind, and at, the query the first half; ahead of it the other half, in the same way.
    np.testing.assert_array_equal(both[21:], 4 + both[:20][::-1])
    assert both[20] == 0
    assert set(both) == {0, 1, 2, 3, 5, 6, 7}  # distance 0 is not ahead
    causal = np.asarray(bucket_of(ahead, is_bidirectional=False, **options))
    assert not causal[20:].any()  # not seen, so not told apart
    assert set(causal) == set(range(8))


@pytest.mark.parametrize("is_bidirectional", [False, True])
def test_a_bias_is_the_tables_number_for_the_distance(is_bidirectional):
    bias = make(is_bidirectional=is_bidirectional)
    found = run(bias, jnp.arange(6), 9)
    assert found.shape == (HEADS, 6, 9)
    ahead = np.arange(9) - np.arange(6)[:, None]
    options = {"num_buckets": 8, "max_distance": 12, "is_bidirectional": is_bidirectional}
    expected = np.asarray(bias.table[...])[np.asarray(bucket_of(ahead, **options))]
    np.testing.assert_array_equal(found, np.moveaxis(expected, 2, 0))  # to the bit


def test_later_queries_have_the_rows_of_the_whole():
    bias = make(is_bidirectional=False)
    whole = run(bias, jnp.arange(20), 20)
    np.testing.assert_array_equal(run(bias, jnp.array([7, 19]), 20), whole[:, [7, 19]])


def test_a_number_has_the_gradients_of_all_its_pairs():
    bias = make(is_bidirectional=True)

    def total(table):
        return jnp.sum(bind(bias, {"table": table})(jnp.arange(15), 15, layout=None))

    ahead = np.arange(15) - np.arange(15)[:, None]
    options = {"num_buckets": 8, "max_distance": 12, "is_bidirectional": True}
    counts = np.bincount(np.asarray(bucket_of(ahead, **options)).ravel(), minlength=8)
    found = fast(jax.grad(total))(jnp.zeros((8, HEADS)))
    np.testing.assert_array_equal(found, np.repeat(counts[:, None], HEADS, axis=1))


def test_the_table_is_cut_along_heads():
    assert spec_dict(make(is_bidirectional=True))["table"].axes == ("buckets", "heads")
