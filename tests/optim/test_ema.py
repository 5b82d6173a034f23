import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.optim import EmaConfig


def test_equals_the_closed_form():
    config, steps = EmaConfig(decay=0.9), 5
    history = np.random.default_rng(0).normal(size=(steps + 1, 4, 3)).astype(np.float32)
    ema = config.init({"w": jnp.asarray(history[0])})
    for weights in history[1:]:
        ema = jax.jit(config.update)(ema, {"w": jnp.asarray(weights)})
    shares = 0.1 * 0.9 ** np.arange(steps - 1, -1, -1)
    expected = 0.9**steps * history[0] + np.tensordot(shares, history[1:], 1)
    # A rounding of float32 a step, on values of size one.
    np.testing.assert_allclose(ema["w"], expected, rtol=0, atol=1e-6)


def test_is_float32_and_shares_no_buffer():
    config, params = EmaConfig(decay=0.5), {"w": jnp.ones(3), "half": jnp.ones(3, jnp.bfloat16)}
    ema = config.init(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(ema)} == {jnp.dtype(jnp.float32)}
    step = jax.jit(lambda params, ema: (params, config.update(ema, params)), donate_argnums=(0, 1))
    params, ema = step(params, ema)
    assert {leaf.dtype for leaf in jax.tree.leaves(ema)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_array_equal(ema["w"], 1.0)  # the average of equal weights is that weight


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decay(decay):
    with pytest.raises(ValidationError, match="decay"):
        EmaConfig(decay=decay)
