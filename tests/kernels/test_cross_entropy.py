"""B batch, T length, D embed, V vocabulary."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.kernels.cross_entropy import (
    chunked_cross_entropy,
    cross_entropy,
    cross_entropy_reference,
)
from jaxllm.parallel.mesh import ParallelConfig

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


def project(weights, x_BTD):
    return 3 * jnp.tanh(x_BTD @ weights["kernel"])


def losses(cross_entropy_of, x, weights, targets, coefficients):
    """Some function of every result, and its gradients by x and the weights."""

    def loss(x, weights):
        nll, normalizer = cross_entropy_of(x, weights, targets)
        assert nll.shape == normalizer.shape == targets.shape
        return jnp.sum(coefficients * nll + jnp.square(normalizer))

    return fast(jax.value_and_grad(loss, argnums=(0, 1)))(x, weights)


@pytest.mark.parametrize(
    ("num_chunks", "parallel"),
    [
        (1, None),
        (4, None),
        (4, {"fsdp": 2, "context": 2, "tensor": 2}),
        (2, {"fsdp": 8}),
    ],
)
def test_chunks_equal_the_whole(num_chunks, parallel):
    rng = np.random.default_rng(0)
    rows, length, embed, vocab = 8, 16, 6, 32
    x = rng.normal(size=(rows, length, embed)).astype(np.float32)
    weights = {"kernel": rng.normal(size=(embed, vocab)).astype(np.float32)}
    targets = rng.integers(0, vocab, (rows, length)).astype(np.int32)
    coefficients = rng.normal(size=(rows, length)).astype(np.float32)
    layout = parallel and ParallelConfig.model_validate(parallel).build()

    def whole(x, weights, targets):
        return cross_entropy(project(weights, x), targets)

    def chunked(x, weights, targets):
        return chunked_cross_entropy(
            x, weights, targets, project=project, num_chunks=num_chunks, layout=layout
        )

    expected = losses(whole, x, weights, targets, coefficients)
    results = losses(chunked, x, weights, targets, coefficients)
    # Sums over 128 positions in another order: float32 rounding of a result of about 2000 and
    # gradients of about 50.
    for result, exact in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-6, atol=5e-5)


def test_no_more_than_a_chunk_of_logits_is_held():
    """In the compiled gradient nothing is as large as the logits of two chunks."""
    x, weights = jnp.zeros((2, 64, 4)), {"kernel": jnp.zeros((4, 512))}

    def loss(x, weights):
        targets = jnp.zeros((2, 64), jnp.int32)
        return chunked_cross_entropy(x, weights, targets, project=project, num_chunks=8)[0].sum()

    text = fast(jax.grad(loss, argnums=(0, 1))).lower(x, weights).compile().as_text()
    shapes = [
        [int(size) for size in shape.split(",")] for shape in re.findall(r"f32\[([\d,]+)\]", text)
    ]
    largest = max(int(np.prod(shape)) for shape in shapes)
    assert largest == 2 * 64 * 512 // 8


def test_chunks_that_do_not_divide_are_refused():
    layout = ParallelConfig(fsdp=4, context=2).build()
    x, weights = jnp.zeros((4, 12, 2)), {"kernel": jnp.zeros((2, 8))}
    with pytest.raises(ValueError, match=r"4 chunks.*data\.sequence_length.*multiple of 8"):
        chunked_cross_entropy(
            *(x, weights, jnp.zeros((4, 12), jnp.int32)),
            project=project,
            num_chunks=4,
            layout=layout,
        )
