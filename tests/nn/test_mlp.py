import math

import jax
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.mlp import ACTIVATIONS, Mlp
from jaxllm.nn.param import bind, normal, param_dict

EMBED, HIDDEN = 6, 10
ERF = np.vectorize(math.erf)

EXPECTED = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_exact": lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2))),
    "gelu_sigmoid": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
}


def test_every_activation_is_checked():
    assert EXPECTED.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("activation", EXPECTED)
def test_equals_float64(activation, is_gated):
    mlp = Mlp(
        jax.random.key(0),
        embed_dim=EMBED,
        mlp_dim=HIDDEN,
        activation=activation,
        is_gated=is_gated,
        use_bias=True,
        init=normal(1.0),
        output_init=normal(1.0),
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), param_dict(mlp)
    )
    x = rng.normal(size=(2, 3, EMBED)).astype(np.float32)

    def linear(name, y):
        exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params[name])
        return y @ exact["kernel"] + exact["bias"]

    act = EXPECTED[activation]
    inner = act(linear("gate", x)) * linear("up", x) if is_gated else act(linear("up", x))
    expected = linear("down", inner)
    result = fast(lambda params, x: bind(mlp, params)(x, layout=None))(params, x)
    # Ten products of size up to 300 (a squared ReLU), each rounded by 6e-8.
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
