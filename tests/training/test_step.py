"""One device, every layout and every number of microbatches compute the same step."""

from functools import cache

import jax
import numpy as np
import pytest
import tiny

from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.objectives import CausalLm
from jaxllm.optim import Sgd
from jaxllm.optim.schedules import Constant
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import batch_sharding
from jaxllm.training.state import new_state
from jaxllm.training.step import example_keys, make_loss, make_train_step, microbatches

from . import runs

# Sums over rows and embeddings are taken in another order on another mesh: float32's rounding
# (6e-8) of gradients of size one. AdamW hands it on times rate / eps = 20, Muon's iterations
# enlarge it up to 3.4^5 = 480 times, times its rate of 0.02; three steps of either.
PARAM_TOLERANCE = 2e-5
METRIC_TOLERANCE = 1e-5


@cache
def on_one_device(recipe):
    return runs.make(recipe, runs.one_device())


@cache
def reference(recipe):
    """History of the recipe's run on one device with one microbatch."""
    return runs.train(on_one_device(recipe))[1]


def assert_same(history, expected):
    for (params, ema, metrics), (other_params, other_ema, other_metrics) in zip(
        history, expected, strict=True
    ):
        for name, value in metrics.items():
            np.testing.assert_allclose(
                value, other_metrics[name], rtol=METRIC_TOLERANCE, err_msg=name
            )
        for found, wanted in ((params, other_params), (ema, other_ema)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=PARAM_TOLERANCE),
                found,
                wanted,
            )


def assert_in_place(state, run):
    """Every array is cut as its weight's spec says, the optimizer's and the average's too."""
    by_path = {
        tuple(key.key for key in path): spec for path, spec in jax.tree.leaves_with_path(run.specs)
    }
    owned = 0
    for path, leaf in jax.tree.leaves_with_path(state):
        names = tuple(key.key for key in path if hasattr(key, "key"))
        spec = next((spec for end, spec in by_path.items() if names[-len(end) :] == end), None)
        pieces = {shard.data.shape for shard in leaf.addressable_shards}
        if spec is None or leaf.ndim == 0:
            assert leaf.size <= 3, path  # step counts, and Muon's three coefficients
            continue
        assert leaf.shape == spec.shape, path
        is_optimizer = path[0].name == "opt_state"
        layout = run.layout.for_optimizer() if is_optimizer else run.layout
        cut = tuple(
            size // layout.degree(axis) for size, axis in zip(spec.shape, spec.axes, strict=True)
        )
        assert pieces == {cut}, path
        is_away = is_optimizer and run.layout.is_optimizer_offloaded
        assert (leaf.sharding.memory_kind == "pinned_host") == is_away, path
        owned += 1
    assert owned >= 3 * len(by_path)  # weight, average, and one moment or two


_MORE = {
    "muon": ("fsdp", "zero1"),
    "windows": ("fsdp_tensor", "context"),
    "latent": ("fsdp_tensor", "context"),
    "masked": ("fsdp", "fsdp_tensor", "zero1", "data"),
    "classes": ("fsdp_tensor", "data"),
    "spans": ("fsdp_tensor", "fsdp", "zero1"),
    "prefixes": ("zero1", "fsdp_tensor"),
    "pairs": ("fsdp_tensor", "zero1"),
    "pictures": ("zero1", "fsdp_tensor"),
    "tags": ("zero1", "fsdp_tensor"),
    "answers": ("data", "fsdp_tensor"),
}


@pytest.mark.parametrize(
    ("recipe", "layout"),
    # AdamW looks at single numbers; Muon at whole matrices, which some layouts cut.
    [("adamw", layout) for layout in runs.LAYOUTS]
    + [("muon", "fsdp_tensor"), ("muon", "context")]
    + [
        pytest.param(recipe, layout, marks=pytest.mark.slow)
        for recipe, layouts in _MORE.items()
        for layout in layouts
    ],
)
def test_every_layout_computes_what_one_device_does(recipe, layout):
    run = runs.make(recipe, runs.LAYOUTS[layout].build())
    assert_in_place(run.state, run)
    state, history = runs.train(run)
    assert_same(history, reference(recipe))
    assert_in_place(state, run)


def test_experts_on_many_devices_and_accumulated_compute_what_one_does():
    """The routers' losses, metrics and biases too."""
    layout = ParallelConfig(expert=2, fsdp=2, tensor=2).build()
    run = runs.make("experts", layout, num_microbatches=2)
    assert_in_place(run.state, run)
    state, history = runs.train(run)
    assert_same(history, reference("experts"))
    assert_in_place(state, run)


def test_metrics_and_biases_of_routers():
    """The objective is the loss, its z-loss and the routers' loss; each step moves the biases."""
    start = param_dict(tiny.decoder(runs.RECIPES["experts"][0]))
    before = start["blocks"]["layers"]["moe"]["router"]["bias"]
    plain = {"loss", "objective", "gradient_norm", "learning_rate", "num_tokens"}
    for params, _, metrics in reference("experts"):
        assert {name for name in metrics if not name.startswith("router_")} == plain
        assert all(value.dtype == np.float32 for value in metrics.values())
        # The z-loss of the logits adds 1e-3 log Z ^ 2, where log Z is about ln 64 at the start.
        rest = metrics["objective"] - metrics["loss"] - metrics["router_loss"]
        assert 0.005 < rest < 0.1
        weighted = 0.1 * metrics["router_balance_loss"] + 0.01 * metrics["router_z_loss"]
        np.testing.assert_allclose(metrics["router_loss"], weighted, rtol=1e-6)  # one layer
        assert 1 < metrics["router_max_load"] <= 2  # of four experts a token chooses two
        assert 0 <= metrics["router_min_load"] < 1
        assert 0 < metrics["router_entropy"] <= np.log(4)
        bias = params["blocks"]["layers"]["moe"]["router"]["bias"]
        # The first step has a rate of 0: nothing but the balance moves biases.
        moved = np.abs(bias - before)
        assert np.all(np.isclose(moved, 0.01, rtol=1e-4) | (moved == 0))
        assert np.any(moved)
        before = bias
    assert not any(name.startswith("router_") for name in reference("adamw")[0][2])


@pytest.mark.parametrize(("layout", "num_microbatches"), [(None, 2), ("fsdp_tensor", 4)])
def test_accumulated_equals_the_large_batch(layout, num_microbatches):
    layout = runs.one_device() if layout is None else runs.LAYOUTS[layout].build()
    _, history = runs.train(runs.make("adamw", layout, num_microbatches=num_microbatches))
    assert_same(history, reference("adamw"))


@pytest.mark.parametrize("recipe", ["adamw", "muon", "experts"])
def test_the_average_follows_the_weights(recipe):
    average = jax.device_get(param_dict(tiny.decoder(runs.RECIPES[recipe][0])))
    for params, ema, _ in reference(recipe):
        average = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b.astype(np.float64), average, params)
        # A float32 rounding a step of weights up to three.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), ema, average)


def test_metrics_of_the_step():
    for index, (_, _, metrics) in enumerate(reference("adamw")):
        assert metrics["num_tokens"] == 10 * tiny.LENGTH + 5 + 1 + 0 + 9 + 12 + 3
        # z-loss adds 1e-3 log Z ^ 2, where log Z is about ln 64 at the start.
        assert 0.005 < metrics["objective"] - metrics["loss"] < 0.1
        assert (metrics["learning_rate"] == 0) == (index == 0)  # warmup starts at zero
        assert metrics["gradient_norm"] > 0
        assert all(value.dtype == np.float32 for value in metrics.values())


def test_a_tiny_model_overfits_one_batch():
    _, history = runs.train(on_one_device("adamw"), seeds=[5] * 80)
    losses = [metrics["loss"] for _, _, metrics in history]
    assert losses[0] > 4  # ln 64 = 4.16: it knows nothing
    assert losses[-1] < 1  # 190 random tokens by heart, in spite of dropout


class Descent:
    """Plain gradient descent of a tiny decoder, without dropout, as one compiled step."""

    rate = 0.5

    def __init__(self):
        self.decoder = tiny.decoder(tiny.config(num_layers=1))
        layout, specs = runs.one_device(), spec_dict(self.decoder)
        optim = Sgd(learning_rate=self.rate, momentum=0.0, clip_norm=None, schedule=Constant())
        optimizer = optim.build(specs, total_steps=3)
        self.state = new_state(param_dict(self.decoder), optimizer, None)
        self.step = tiny.fast(
            make_train_step(
                make_loss(CausalLm(), self.decoder, layout),
                optimizer,
                specs=specs,
                layout=layout,
                seed=0,
                schedule=optim.schedule_fn(3),
            )
        )


@pytest.fixture(scope="module")
def descent():
    return Descent()


def test_a_step_by_hand(descent):
    """The weights move by minus the gradient of the mean loss, times the rate."""
    scored = [16] * 4 + [3, 1, 0, 7]
    batch = tiny.batch(scored=scored)
    after, metrics = descent.step(descent.state, batch)

    def mean_loss(params):
        return CausalLm()(bind(descent.decoder, params), batch).nll / sum(scored)

    loss, gradient = tiny.fast(jax.value_and_grad(mean_loss))(descent.state.params)
    # The same float32 sums, at most in another order.
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert metrics["objective"] == metrics["loss"]
    squares = sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(squares), rtol=1e-5)
    assert metrics["learning_rate"] == descent.rate
    moved = jax.tree.map(lambda w, g: w - descent.rate * g, descent.state.params, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), after.params, moved
    )
    assert (int(after.step), after.ema) == (1, None)


def test_a_batch_without_a_scored_target_moves_nothing(descent):
    """Its loss is zero, not 0 / 0."""
    after, metrics = descent.step(descent.state, tiny.batch(scored=[0] * 8))
    assert metrics["loss"] == metrics["gradient_norm"] == metrics["num_tokens"] == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, descent.state.params)


def test_keys_follow_seed_step_and_example_alone():
    def keys(seed, step, examples):
        return [
            jax.random.key_data(key).tobytes()
            for key in example_keys(seed, np.int32(step), np.array(examples, np.uint32))
        ]

    assert keys(0, 3, [5, 9, 2]) == [keys(0, 3, [index])[0] for index in (5, 9, 2)]
    every = {
        *keys(0, 3, [5, 9]),
        *keys(0, 4, [5, 9]),
        *keys(1, 3, [5, 9]),
        *keys(0, 3, [2**32 - 1]),
    }
    assert len(every) == 7


def test_microbatches_split_the_rows_without_moving_them():
    layout = ParallelConfig(layout="fsdp").build()
    rows = jax.device_put(np.arange(32.0).reshape(16, 2), batch_sharding(layout, 2))
    split = jax.jit(lambda x: microbatches(x, 2, layout))
    parts = np.asarray(split(rows))
    assert parts.shape == (2, 8, 2)
    assert sorted(parts.reshape(16, 2)[:, 0].tolist()) == list(range(0, 32, 2))
    program = split.lower(rows).compile().as_text()
    assert not any(word in program for word in ("all-to-all", "all-gather", "collective-permute"))
