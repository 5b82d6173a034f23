import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.norm import Norm
from jaxllm.nn.param import bind, param_dict

SIZE, EPSILON = 24, 1e-5


def moved_norm(norm_type, use_bias):
    """A norm whose scale and bias are random, as NumPy arrays too."""
    norm = Norm(
        jax.random.key(0),
        axis="embed",
        size=SIZE,
        norm_type=norm_type,
        epsilon=EPSILON,
        use_bias=use_bias,
    )
    rng = np.random.default_rng(1)
    params = {
        name: rng.normal(size=SIZE).astype(np.float32) for name in ("scale", "bias")[: 1 + use_bias]
    }
    assert param_dict(norm).keys() == params.keys()
    return bind(norm, params), params


def expected_norm(x, norm_type, params):
    x = x.astype(np.float64)
    if norm_type == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON) * params["scale"]
    return y + params.get("bias", 0.0)


@pytest.mark.parametrize("size", [1.0, 1e-3])  # at the smaller, epsilon counts
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("norm_type", ["rms", "layer"])
def test_equals_float64(norm_type, use_bias, size):
    norm, params = moved_norm(norm_type, use_bias)
    x = 5 + 3 * np.random.default_rng(0).normal(size=(2, 3, SIZE))
    x = (size * x).astype(np.float32)
    expected = expected_norm(x, norm_type, params)
    # A few float32 roundings (6e-8) of values below ten.
    np.testing.assert_allclose(fast(norm)(x), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("norm_type", ["rms", "layer"])
def test_statistics_of_bfloat16_are_taken_in_float32(norm_type):
    norm, params = moved_norm(norm_type, True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, SIZE)), jnp.bfloat16)
    result = fast(norm)(x)
    assert result.dtype == jnp.bfloat16
    expected = expected_norm(np.asarray(x.astype(jnp.float32)), norm_type, params)
    # Only the result is rounded to bfloat16: half of 2^-8, of its own size.
    np.testing.assert_allclose(
        np.asarray(result.astype(jnp.float32)), expected, rtol=2**-8, atol=1e-5
    )


def test_a_fresh_norm_has_unit_scale_and_no_shift():
    norm = Norm(
        jax.random.key(0), axis="embed", size=4, norm_type="layer", epsilon=1e-6, use_bias=True
    )
    params = param_dict(norm)
    np.testing.assert_array_equal(params["scale"], np.ones(4))
    np.testing.assert_array_equal(params["bias"], np.zeros(4))
