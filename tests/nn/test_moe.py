"""B batch, T length, D embed, F hidden, E experts, K chosen experts of a token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError
from tiny import fast

from jaxllm.nn import expert_dispatch
from jaxllm.nn.moe import MoeConfig
from jaxllm.nn.param import bind, normal, param_dict, spec_dict
from jaxllm.parallel.layouts import check_weights
from jaxllm.parallel.mesh import ParallelConfig

B, T, D, F, E, K = 8, 20, 8, 12, 4, 2
SHARED = 1


def make(is_gated=True, **changes):
    config = MoeConfig.model_validate(
        {"num_experts": E, "top_k": K, "num_shared_experts": SHARED, "balance_loss": 0.1} | changes
    )
    build = partial(
        config.build,
        embed_dim=D,
        mlp_dim=F,
        activation="silu",
        is_gated=is_gated,
        init=normal(0.5),
        output_init=normal(0.5),
    )
    return fast(build)(jax.random.key(0))


def inputs():
    """Tokens with a common direction, so that loads are uneven."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(B, T, D)) + rng.normal(size=D)).astype(np.float32)


@pytest.fixture(scope="module")
def on_one_device():
    moe, x = make(), inputs()
    run = fast(jax.value_and_grad(partial(loss_of, moe, None), argnums=(0, 1), has_aux=True))
    return moe, x, run(param_dict(moe), x)


def loss_of(moe, layout, params, x):
    y, sums = bind(moe, params)(x, layout=layout)
    return jnp.sum(jnp.cos(y)) + sums.loss, (y, sums)


def exact(params, x):
    """The same in float64, token by token and choice by choice; with the choices made."""

    def network(kernels, token):
        gate = token @ kernels["gate"]
        return (gate / (1 + np.exp(-gate)) * (token @ kernels["up"])) @ kernels["down"]

    kernel = params["router"]["kernel"]
    experts = [
        {name: part["kernel"][e] for name, part in params["experts"].items()} for e in range(E)
    ]
    shared = {name: part["kernel"] for name, part in params["shared"].items()}
    loss, choices, loads, scores = 0.0, [], np.zeros((B, E)), np.zeros((B, E))
    for row in range(B):
        for token in x[row]:
            exp = np.exp(token @ kernel)
            softmax = exp / exp.sum()
            chosen = np.argsort(-softmax)[:K]
            weights = softmax[chosen] / softmax[chosen].sum()
            y = network(shared, token)
            for expert, weight in zip(chosen, weights, strict=True):
                y = y + weight * network(experts[expert], token)
            loss += np.cos(y).sum()
            loads[row, chosen] += 1
            scores[row] += softmax
            choices.append(tuple(chosen))
    return loss + 0.1 * E / (K * T) * np.sum(loads * scores), choices


def test_equals_a_loop_over_tokens_in_float64(on_one_device):
    """The value, and the slope along a random direction of each weight and of the input."""
    moe, x, ((loss, _), gradients) = on_one_device
    point = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (param_dict(moe), x))
    expected, choices = exact(*point)
    assert len(set(choices)) > 3
    # About a thousand cosines, each of sums of products that are rounded to 6e-8.
    np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-3)
    rng, step = np.random.default_rng(1), 1e-5
    leaves, structure = jax.tree.flatten(point)
    for index, gradient in enumerate(jax.tree.leaves(gradients)):
        direction = rng.normal(size=gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = list(leaves)
            moved[index] = moved[index] + sign * step * direction
            value, moved_choices = exact(*jax.tree.unflatten(structure, moved))
            assert moved_choices == choices  # or there is no slope
            ends.append(value)
        slope = (ends[0] - ends[1]) / (2 * step)
        # float32 sums of some hundred products; the difference quotient is good to 1e-8.
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=2e-4, atol=2e-4)


def test_equal_experts_are_one_dense_layer():
    """Whatever is chosen; here without a gate."""
    moe, x = make(num_shared_experts=0, is_gated=False), inputs()
    params = param_dict(moe)
    assert set(params["experts"]) == {"up", "down"}
    same = jax.tree.map(lambda w: jnp.broadcast_to(w[:1], w.shape), params["experts"])
    y, _ = fast(lambda params, x: bind(moe, params)(x, layout=None))(params | {"experts": same}, x)
    h = x @ same["up"]["kernel"][0]
    expected = (h * jax.nn.sigmoid(h)) @ same["down"]["kernel"][0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)  # float32 sums of twelve products


def test_experts_on_many_devices_equal_one(on_one_device, monkeypatch):
    """With room for so few rows that other rounds must follow."""
    monkeypatch.setitem(expert_dispatch.across_devices.__kwdefaults__, "headroom", 0.3)
    moe, x, expected = on_one_device
    layout = ParallelConfig(expert=4, data=2).build()
    run = jax.value_and_grad(partial(loss_of, moe, layout), argnums=(0, 1), has_aux=True)
    found = fast(run)(param_dict(moe), x)
    # Gradients of size ten, summed over devices in another order: float32 rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-5), found, expected
    )


@pytest.mark.parametrize(("num_devices", "headroom"), [(4, 4.0), (4, 0.3)])
def test_how_many_rounds_the_rows_of_a_device_take(num_devices, headroom, on_one_device):
    """What the test above is about: one round with room for all, several without."""
    moe, x, _ = on_one_device
    choice_BTK = fast(lambda x: moe.router(x, layout=None).choice_BTK)(x)
    rounds = []
    for choice_TK in choice_BTK:
        plan = expert_dispatch.make_plan(
            choice_TK, num_experts=E, num_devices=num_devices, headroom=headroom
        )
        rounds.append(-(-int(plan.queued_P.max()) // plan.places_C.size))
    assert max(rounds) == 1 if headroom > 1 else max(rounds) > 1


def test_rounds_go_on_until_every_token_was_served():
    """All tokens of a device choose one expert; each round takes eight rows of it."""
    tokens = 40
    choice_NK = jnp.zeros((tokens, 1), jnp.int32)
    plan = expert_dispatch.make_plan(choice_NK, num_experts=4, num_devices=4, headroom=0.5)
    assert plan.places_C.size == 8
    assert plan.queued_P.tolist() == [tokens, 0, 0, 0]
    assert -(-plan.queued_P.max() // plan.places_C.size) == 5
    even = jnp.arange(tokens, dtype=jnp.int32)[:, None] % 4
    plan = expert_dispatch.make_plan(even, num_experts=4, num_devices=4, headroom=1.25)
    assert plan.queued_P.tolist() == [10] * 4
    assert plan.places_C.size == 16  # 12.5, in whole tiles of 8


def test_room_is_never_made_for_more_than_can_come():
    choice_NK = jnp.array([[0, 1], [2, 3], [0, 3]])
    plan = expert_dispatch.make_plan(choice_NK, num_experts=4, num_devices=4, headroom=9.0)
    assert plan.places_C.size == 3  # a token chooses the one expert of a device at most once


def test_experts_are_cut_and_declared_as_weights_of_their_own():
    specs = spec_dict(make(bias_rate=0.1))
    up, down = (specs["experts"][name]["kernel"] for name in ("up", "down"))
    assert (up.fan_in, down.fan_in) == (D, F)
    assert up.batch_dims == down.batch_dims == (0,)
    layout = ParallelConfig(expert=2, tensor=2, fsdp=2).build()
    assert layout.sharding(up.axes).shard_shape(up.shape) == (E // 2, D // 2, F // 2)
    assert layout.sharding(down.axes).shard_shape(down.shape) == (E // 2, F // 2, D // 2)


def test_a_mesh_that_does_not_divide_the_experts_is_refused():
    layout = ParallelConfig(expert=8).build()
    with pytest.raises(ValueError, match=r"experts of size 4 cannot be cut in 8 \(parallel\.expe"):
        check_weights(layout, spec_dict(make()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 5}, "top_k=5 of num_experts=4"),
        ({"top_k": 0}, "top_k"),
        ({"num_experts": 0}, "num_experts"),
        ({"scoring": "relu"}, "scoring"),
        ({"balance_loss": -1.0}, "balance_loss"),
        ({"capacity": 1.25}, "capacity"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        make(**changes)
