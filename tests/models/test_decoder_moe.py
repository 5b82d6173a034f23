"""A decoder whose later blocks have experts. B batch, T length, L layers with experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pydantic import ValidationError
from tiny import fast

from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.nn.router import RouterSums
from jaxllm.objectives import CausalLm
from jaxllm.parallel.layouts import weight_items

MOE = {
    "num_experts": 4,
    "top_k": 2,
    "expert_dim": 20,
    "num_shared_experts": 1,
    "num_dense_layers": 1,
    "scoring": "sigmoid",
    "score_scale": 1.5,
    "balance_loss": 0.1,
    "z_loss": 0.01,
    "bias_rate": 0.02,
}


def config(moe=None, **changes):
    return tiny.config(**{"num_layers": 2, "moe": MOE | (moe or {})} | changes)


def test_scanned_unrolled_and_recomputed_are_equal():
    batch, expected = tiny.batch(rows=2), None
    few = {"num_dense_layers": 0, "num_shared_experts": 0}
    params = param_dict(tiny.decoder(config(few, is_gated=False)))
    for is_scanned, remat in [(True, "none"), (False, "full")]:
        options = {"remat": remat, "is_scanned": is_scanned, "is_gated": False}
        model = tiny.abstract(config(few, **options))

        def loss(params, model=model):
            sums = CausalLm()(bind(model, params), batch)
            return sums.loss + jnp.sum(sums.router.loss), sums.router

        found = fast(jax.value_and_grad(loss, has_aux=True))(params)
        expected = expected or found
        # The same sums in another order: float32 rounding of gradients of size ten.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
        )
    router = expected[0][1]
    assert router.loads_E.shape == (2, 4)
    np.testing.assert_array_equal(router.loads_E.sum(axis=1), 2 * tiny.LENGTH * MOE["top_k"])


def test_decoding_with_a_cache_equals_the_whole_text():
    model, tokens = tiny.decoder(config()), tiny.batch(rows=2)["tokens"]
    half = tiny.LENGTH // 2

    @fast
    def in_two_parts(tokens):
        cache = model.empty_cache(2, tiny.LENGTH)
        first, cache = model.forward(tokens[:, :half], cache=cache)
        positions = jnp.broadcast_to(jnp.arange(half, tiny.LENGTH), (2, half))
        second, _ = model.forward(tokens[:, half:], positions_BT=positions, cache=cache)
        return jnp.concatenate([first, second], axis=1)

    # The same numbers are summed in other places: float32 rounding, over two layers.
    np.testing.assert_allclose(in_two_parts(tokens), fast(model)(tokens), rtol=0, atol=1e-5)


def test_weights_follow_the_options():
    def names(**changes):
        specs = spec_dict(tiny.abstract(tiny.config(**changes)))
        return {path for path, _ in weight_items(specs)}

    dense, moe = names(), names(moe={"num_experts": 4})
    assert dense - moe == {f"blocks.layers.mlp.{name}.kernel" for name in ("up", "gate", "down")}
    layer = "blocks.layers.moe"
    assert moe - dense == {
        f"{layer}.router.kernel",
        *(f"{layer}.experts.{name}.kernel" for name in ("up", "gate", "down")),
    }
    assert names(moe={"num_experts": 4, "bias_rate": 0.0}) - moe == {f"{layer}.router.bias"}
    shared = names(moe={"num_experts": 4, "num_shared_experts": 2}) - moe
    assert shared == {f"{layer}.shared.{name}.kernel" for name in ("up", "gate", "down")}
    first = names(moe={"num_experts": 4, "num_dense_layers": 1}) - moe
    assert first == {f"dense_{name}" for name in dense if name.startswith("blocks.")}


def test_a_token_is_multiplied_by_the_experts_it_chooses():
    """As many matmul weights as a dense model whose layer is as wide as they are together."""

    def active(config):
        specs = weight_items(spec_dict(tiny.abstract(config)))
        return sum(config.active_size(spec) for _, spec in specs if spec.role == "hidden")

    moe = {"num_experts": 8, "top_k": 2, "expert_dim": 10, "num_shared_experts": 1}
    routers = 3 * 32 * 8
    assert active(tiny.config(moe=moe)) == active(tiny.config(mlp_dim=30)) + routers


def test_rebalancing_moves_the_biases_alone():
    model = tiny.abstract(config())
    start = param_dict(tiny.decoder(config()))
    loads = np.array([[9.0, 0.0, 7.0, 8.0]], np.float32)
    moved = model.rebalance(start, RouterSums(16.0, loads, 0.0, 0.0, 0.0, 0.0))
    bias = start["blocks"]["layers"]["moe"]["router"]["bias"]
    expected = bias + 0.02 * np.array([[-1, 1, -1, -1]])
    # One float32 addition; 0.02 is rounded.
    np.testing.assert_allclose(
        moved["blocks"]["layers"]["moe"]["router"]["bias"], expected, rtol=1e-6
    )
    is_same = jax.tree.map(lambda a, b: a is b, moved, start)
    assert jax.tree.leaves(is_same).count(False) == 1
    still = tiny.abstract(config({"bias_rate": 0.0}))
    assert still.rebalance(start, None) is start


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe": {"num_experts": 2, "top_k": 3}}, "top_k=3 of num_experts=2"),
        ({"moe": MOE | {"num_dense_layers": 3}}, r"moe\.num_dense_layers=3 of num_layers=3"),
        ({"moe": MOE, "use_bias": True}, "use_bias=true"),
        ({"moe": {"top_k": 2}}, "num_experts"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny.config(**changes)
