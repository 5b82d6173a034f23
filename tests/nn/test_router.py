"""B batch, T length, D embed, E experts, K chosen experts of a token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.param import bind, normal, param_dict
from jaxllm.nn.router import Router, RouterSums, balance_loss, rebalanced, router_metrics

B, T, D, E, K = 3, 5, 6, 8, 3
OPTIONS = {
    "embed_dim": D,
    "num_experts": E,
    "top_k": K,
    "scoring": "softmax",
    "is_normalized": True,
    "scale": 1.0,
    "balance_weight": 0.0,
    "z_weight": 0.0,
    "has_bias": False,
    "init": normal(1.0),
}


def make(**options):
    return fast(lambda key: Router(key, **(OPTIONS | options)))(jax.random.key(0))


def inputs(dtype=np.float32):
    return np.random.default_rng(0).normal(size=(B, T, D)).astype(dtype)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_normalized": False},
        {"scoring": "sigmoid", "scale": 2.5, "has_bias": True},
        {"has_bias": True, "is_normalized": False},
    ],
)
def test_choice_weights_and_sums_by_hand(options):
    router = make(balance_weight=0.5, z_weight=0.25, **options)
    options = OPTIONS | options
    params, x = jax.device_get(param_dict(router)), inputs()
    if options["has_bias"]:
        params["bias"] = np.random.default_rng(1).normal(size=E).astype(np.float32)
    routing = fast(lambda params, x: bind(router, params)(x, layout=None))(params, x)

    logits = x.astype(np.float64) @ params["kernel"]
    exp = np.exp(logits)
    softmax, sigmoid = exp / exp.sum(-1, keepdims=True), 1 / (1 + 1 / exp)
    is_sigmoid = options["scoring"] == "sigmoid"
    scores = sigmoid if is_sigmoid else softmax
    shares = sigmoid / sigmoid.sum(-1, keepdims=True) if is_sigmoid else softmax
    best_first = np.argsort(-(scores + params.get("bias", 0)), axis=-1)[..., :K]
    np.testing.assert_array_equal(routing.choice_BTK, best_first)
    weights = np.take_along_axis(scores, best_first, -1)
    if options["is_normalized"]:
        weights /= weights.sum(-1, keepdims=True)
    close = {"rtol": 1e-5, "atol": 0}  # float32 rounding of exp and of sums of six products
    np.testing.assert_allclose(routing.weights_BTK, options["scale"] * weights, **close)

    sums = routing.sums
    loads_BE = (best_first[..., None] == np.arange(E)).sum((1, 2))
    balance = sum(E * T * np.sum(loads_BE[row] / (K * T) * shares[row].mean(0)) for row in range(B))
    z = np.sum(np.log(exp.sum(-1)) ** 2)
    assert sums.num_positions == B * T
    np.testing.assert_array_equal(sums.loads_E, loads_BE.sum(0))
    np.testing.assert_allclose(sums.balance, balance, **close)
    np.testing.assert_allclose(sums.z, z, **close)
    np.testing.assert_allclose(sums.entropy, -np.sum(shares * np.log(shares)), **close)
    np.testing.assert_allclose(sums.loss, 0.5 * balance + 0.25 * z, **close)


def test_an_even_load_costs_one_a_position_and_a_collapsed_one_more():
    even = jnp.full((B, T, E), 1 / E)
    loads = jnp.full((B, E), T * K / E)
    assert balance_loss(even, loads, top_k=K) == pytest.approx(B * T, rel=1e-6)
    # All tokens on the same K experts, each with 1 / K of the score: E / K times that.
    one_sided = jnp.where(jnp.arange(E) < K, 1 / K, 0.0) * jnp.ones((B, T, 1))
    loads = jnp.where(jnp.arange(E) < K, T, 0.0) * jnp.ones((B, 1))
    assert balance_loss(one_sided, loads, top_k=K) == pytest.approx(B * T * E / K, rel=1e-6)


def test_rows_add_up():
    router, x = make(balance_weight=1.0, z_weight=1.0), inputs()
    run = fast(lambda x: router(x, layout=None).sums)
    parts = [run(x[row : row + 1]) for row in range(B)]
    total = jax.tree.map(lambda *values: sum(values), *parts)
    # The same numbers in another order: float32 rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), total, run(x))


def test_scores_are_float32_whatever_comes_in():
    """In bfloat16 two logits that differ by a thousandth would be equal."""
    router = make()
    kernel = jnp.zeros((D, E)).at[0].set(1 + 1e-3 * jnp.arange(E))
    x = jnp.ones((1, 1, D), jnp.bfloat16)
    routing = fast(lambda kernel: bind(router, {"kernel": kernel})(x, layout=None))(kernel)
    assert routing.choice_BTK[0, 0].tolist() == [E - 1, E - 2, E - 3]
    assert routing.weights_BTK.dtype == jnp.float32


def test_the_bias_has_no_gradient():
    router, x = make(has_bias=True, balance_weight=1.0, z_weight=1.0), inputs()

    def loss(params):
        routing = bind(router, params)(x, layout=None)
        return jnp.sum(jnp.cos(routing.weights_BTK)) + routing.sums.loss

    gradients = fast(jax.grad(loss))(param_dict(router))
    assert not np.any(gradients["bias"])
    assert np.all(np.any(gradients["kernel"] != 0, axis=0))


def test_rebalancing_by_hand():
    loads = jnp.array([[4.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    bias = jnp.array([[0.0, 1.0, 0.5, 0.0], [1.0, 2.0, 3.0, 4.0]])
    moved = rebalanced(bias, loads, rate=0.125)
    expected = [[-0.125, 1.125, 0.5, 0.0], [1.0, 2.0, 3.0, 4.0]]
    np.testing.assert_array_equal(moved, expected)


def test_rebalancing_evens_the_load():
    router = make(has_bias=True, scoring="sigmoid")
    rng = np.random.default_rng(3)
    # A common direction makes every token prefer the same experts.
    x = (rng.normal(size=(8, 32, D)) + 0.7).astype(np.float32)
    loads = fast(lambda params: bind(router, params)(x, layout=None).sums.loads_E)
    params = param_dict(router)
    before = loads(params)
    for _ in range(100):
        params["bias"] = rebalanced(params["bias"], loads(params), rate=0.02)
    after, mean = loads(params), 8 * 32 * K / E
    assert before.max() > 1.8 * mean
    assert after.max() < 1.3 * mean
    assert after.min() > 0.7 * mean


def test_metrics_by_hand():
    sums = RouterSums(
        num_positions=jnp.array([10.0, 10.0]),
        loads_E=jnp.array([[6.0, 2.0, 12.0, 0.0], [5.0, 5.0, 5.0, 5.0]]),
        balance=jnp.array([20.0, 10.0]),
        z=jnp.array([40.0, 0.0]),
        entropy=jnp.array([10.0, 12.0]),
        loss=jnp.array([1.0, 3.0]),
    )
    found = router_metrics(sums)
    expected = {
        "router_loss": 0.4,
        "router_balance_loss": 1.5,
        "router_z_loss": 2.0,
        "router_entropy": 1.1,
        "router_max_load": 2.4,
        "router_min_load": 0.0,
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
        assert found[name].dtype == jnp.float32
