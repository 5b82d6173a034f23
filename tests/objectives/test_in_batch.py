"""B batch, P width of the vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.objectives.in_batch import in_batch_sums, unit

B, P = 6, 4
ALL = np.ones(B, np.float32)
SOME = np.array([1, 0, 1, 1, 0, 1], np.float32)


def sides(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(2, B, P)).astype(np.float32))


def expected(left, right):
    """The mean over pairs of -log of the own share, by the definition."""
    logits = left.astype(np.float64) @ right.T.astype(np.float64)
    own = np.exp(np.diag(logits)) / np.exp(logits).sum(axis=1)
    return -np.log(own).sum()


@pytest.mark.parametrize("is_symmetric", [False, True])
@pytest.mark.parametrize("mask", [ALL, SOME])
def test_rows_that_are_not_scored_are_as_if_they_were_not_there(mask, is_symmetric):
    left, right = sides()
    sums = in_batch_sums(left, right, mask, is_symmetric=is_symmetric)
    kept = mask > 0
    wanted = expected(left[kept], right[kept])
    if is_symmetric:
        wanted = (wanted + expected(right[kept], left[kept])) / 2
    np.testing.assert_allclose(sums.loss, wanted, rtol=1e-5)  # float32, products of size ten
    assert sums.nll == sums.loss
    assert sums.num_tokens == kept.sum()


@pytest.mark.parametrize("mask", [SOME, np.zeros(B, np.float32)])
def test_rows_that_are_not_scored_have_no_gradient(mask):
    """Not even of an empty text, whose vector has no direction."""
    left, right = sides()
    left[1] = right[4] = 0

    def loss(left, right):
        return in_batch_sums(5 * unit(left), unit(right), mask, is_symmetric=True).loss

    gradients = tiny.fast(jax.grad(loss, argnums=(0, 1)))
    for gradient in gradients(left, right):
        assert np.all(np.isfinite(gradient))
        np.testing.assert_array_equal(np.any(gradient != 0, axis=1), mask > 0)


def test_unit_vectors():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]])
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)  # rounding
    assert unit(x.astype(jnp.bfloat16)).dtype == jnp.float32
