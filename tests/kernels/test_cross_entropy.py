"""B batch, T length, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.kernels.cross_entropy import cross_entropy, cross_entropy_reference

B, T, V = 3, 5, 33


def random_case(dtype="float32", size=3.0):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(size * rng.normal(size=(B, T, V)), dtype)
    return logits, rng.integers(0, V, (B, T)).astype(np.int32)


def in_float64(logits_BTV, targets_BT):
    """(-log p, log-sum-exp) by the definition."""
    logits = np.asarray(logits_BTV.astype(jnp.float32), np.float64)
    peak = logits.max(axis=-1)
    normalizer = peak + np.log(np.exp(logits - peak[..., None]).sum(axis=-1))
    return normalizer - np.take_along_axis(logits, targets_BT[..., None], -1)[..., 0], normalizer


# bfloat16 logits are taken exactly to float32, so the tolerance is float32's rounding (6e-8) of
# logits of this size, a few times over.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [3.0, 300.0])
def test_equals_float64_and_the_reference(dtype, size):
    logits, targets = random_case(dtype, size)
    nll, normalizer = fast(cross_entropy)(logits, targets)
    assert nll.dtype == normalizer.dtype == jnp.float32
    expected_nll, expected_normalizer = in_float64(logits, targets)
    np.testing.assert_allclose(nll, expected_nll, rtol=0, atol=1e-6 * size)
    np.testing.assert_allclose(normalizer, expected_normalizer, rtol=0, atol=1e-6 * size)
    np.testing.assert_allclose(
        nll, fast(cross_entropy_reference)(logits, targets), rtol=0, atol=1e-6 * size
    )


def test_gradient_is_probability_minus_one_hot():
    logits, targets = random_case()
    gradient = fast(jax.grad(lambda x: cross_entropy(x, targets)[0].sum()))(logits)
    exact = np.asarray(logits, np.float64)
    probabilities = np.exp(exact) / np.exp(exact).sum(axis=-1, keepdims=True)
    # float32 roundings of values below one.
    np.testing.assert_allclose(gradient, probabilities - np.eye(V)[targets], rtol=0, atol=1e-6)


def test_ruled_out_tokens_cost_nothing_and_give_no_nan():
    """Minus infinity, as a filter leaves it, at tokens that are no target."""
    logits, _ = random_case()
    targets = np.zeros((B, T), np.int32)
    blocked = logits.at[..., V // 2 :].set(-jnp.inf)
    nll, _ = fast(cross_entropy)(blocked, targets)
    expected, _ = in_float64(logits[..., : V // 2], targets)
    np.testing.assert_allclose(nll, expected, rtol=0, atol=3e-6)  # as above
