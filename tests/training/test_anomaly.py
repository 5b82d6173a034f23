"""A bad step leaves the state as it was, bit for bit; a good one is the step without a guard."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.objectives.base import LossSums
from jaxllm.optim import AdamW, EmaConfig
from jaxllm.optim.schedules import Linear
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import global_batch
from jaxllm.training.anomaly import AnomalyConfig, AnomalyWatch, Verdict, first_guard, judge
from jaxllm.training.state import abstract_guard, new_state
from jaxllm.training.step import make_train_step

from . import runs

NAN, INF = math.nan, math.inf
GUARD = AnomalyConfig()
ROWS = 8
SPECS = {"kernel": WeightSpec((4, 4), ("embed", "mlp"), "hidden", (0,), (1,))}


def toy_loss(params, batch, keys_B):
    """Its value is that of `asked`, and its gradient about that of `pull`."""
    pulled = jnp.sum(params["kernel"] * jnp.mean(batch["pull"])) * ROWS
    nll = jax.lax.stop_gradient(batch["asked"][0] * ROWS - pulled) + pulled
    return LossSums(nll, nll, jnp.sum(batch["loss_mask"]))


@cache
def toy(anomalies):
    """(first state, compiled step) of four by four weights."""
    optim = AdamW(learning_rate=0.1, schedule=Linear(warmup_steps=1))
    optimizer, ema = optim.build(SPECS, total_steps=200), EmaConfig(decay=0.9)
    weights = {"kernel": jnp.linspace(-1.0, 1.0, 16).reshape(4, 4).at[0, 0].set(-0.0)}
    step = make_train_step(
        toy_loss,
        optimizer,
        specs=SPECS,
        layout=runs.one_device(),
        seed=0,
        schedule=optim.schedule_fn(200),
        ema=ema,
        anomalies=anomalies,
    )
    return new_state(weights, optimizer, ema, has_guard=anomalies is not None), jax.jit(step)


def toy_batch(loss=2.0, pull=0.1, scored=1.0):
    return {
        "loss_mask": np.full(ROWS, scored, np.float32),
        "example_index": np.arange(ROWS, dtype=np.uint32),
        "asked": np.full(ROWS, loss, np.float32),
        "pull": np.full(ROWS, pull, np.float32),
    }


def after(*batches, anomalies=GUARD):
    """The state behind these batches and the metrics of each step, on the host."""
    state, step = toy(anomalies)
    history = []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def body(state):
    """All that a skipped step may not change."""
    return state.params, state.opt_state, state.ema


@pytest.mark.parametrize(
    "bad",
    [
        toy_batch(loss=NAN),
        toy_batch(loss=INF),
        toy_batch(pull=INF),
        toy_batch(pull=NAN),
        toy_batch(pull=1e30),  # every gradient is finite, but not its norm
        toy_batch(loss=200.0),
    ],
    ids=["nan", "inf", "inf gradient", "nan gradient", "overflowing norm", "100x spike"],
)
def test_a_bad_step_changes_nothing_but_the_count_of_steps(bad):
    good = [toy_batch(pull=0.1 * index) for index in range(1, 25)]
    before, _ = after(*good)
    behind, history = after(*good, bad)
    assert bits(body(behind)) == bits(body(before))
    assert behind.step == before.step + 1 == 25
    assert behind.guard == before.guard._replace(skipped=1, skipped_in_a_row=1)
    assert [metrics["is_skipped"] for metrics in history] == [0.0] * 24 + [1.0]
    # Later steps are those of a run that never saw it, but for dropout, which is not in here.
    behind, _ = after(*good, bad, *good)
    expected, _ = after(*good, *good)
    assert bits(body(behind)) == bits(body(expected))
    assert (behind.guard.skipped, behind.guard.skipped_in_a_row, behind.guard.accepted) == (
        1,
        0,
        48,
    )


def test_metrics_count_and_the_rate_follows_the_updates():
    losses = [2.0, NAN, NAN, 2.0, INF, 2.0]
    _, history = after(*map(toy_batch, losses))
    assert [metrics["skipped_in_a_row"] for metrics in history] == [0, 1, 2, 0, 1, 0]
    assert [metrics["skipped_steps"] for metrics in history] == [0, 1, 2, 2, 3, 3]
    assert all(value.dtype == np.float32 for value in history[0].values())
    _, plain = after(*[toy_batch()] * 3, anomalies=None)
    rates = [metrics["learning_rate"] for metrics in history]
    assert [rates[0], rates[3], rates[5]] == [metrics["learning_rate"] for metrics in plain]
    assert not {"is_skipped", "skipped_in_a_row", "skipped_steps"} & plain[0].keys()


def test_a_good_run_has_the_bits_of_one_without_a_guard():
    """XLA would fuse the choice with the update, and round the average in another way."""
    batches = [toy_batch(pull=0.1 * index - 0.33) for index in range(12)]
    (guarded, history), (without, plain) = after(*batches), after(*batches, anomalies=None)
    assert bits(body(guarded)) == bits(body(without))
    for metrics, expected in zip(history, plain, strict=True):
        assert bits({name: metrics[name] for name in expected}) == bits(expected)


@pytest.mark.slow
def test_a_good_run_of_a_decoder_has_the_bits_of_one_without_a_guard():
    """Of a decoder with Muon, whose updates XLA would fuse with the choice."""
    layout = runs.one_device()
    without, plain = runs.train(runs.make("muon", layout))
    guarded, history = runs.train(runs.make("muon", layout, anomalies=GUARD))
    assert bits(body(guarded)) == bits(body(without))
    for (_, _, metrics), (_, _, expected) in zip(history, plain, strict=True):
        assert bits({name: metrics[name] for name in expected}) == bits(expected)


@pytest.mark.parametrize(
    ("recipe", "parallel"),
    [
        pytest.param(
            "adamw",
            ParallelConfig(layout="zero1", data=2, offload_optimizer=True),
            marks=pytest.mark.slow,
        ),
        pytest.param("experts", ParallelConfig(expert=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
        pytest.param("adamw", ParallelConfig(layout="fsdp", data=2), marks=pytest.mark.slow),
        pytest.param("muon", ParallelConfig(layout="fsdp", data=2), marks=pytest.mark.slow),
    ],
    ids=["zero1 offloaded", "experts", "fsdp", "muon"],
)
def test_a_bad_step_of_a_network_on_many_devices(recipe, parallel):
    """Routers' biases, which have no gradient, stay as well, and every array where it was."""
    run = runs.make(recipe, parallel.build(), anomalies=GUARD)
    state, _ = runs.train(run, seeds=range(2))
    before = jax.device_get(body(state))
    places = [leaf.sharding for leaf in jax.tree.leaves(state)]
    batch = runs.batch(2)
    batch["loss_mask"][3, 5] = NAN
    state, metrics = run.step(state, global_batch(run.layout, batch, rows=runs.ROWS))
    assert metrics["is_skipped"] == 1
    assert bits(jax.device_get(body(state))) == bits(before)
    assert [leaf.sharding for leaf in jax.tree.leaves(state)] == places
    state, metrics = run.step(state, global_batch(run.layout, runs.batch(2), rows=runs.ROWS))
    assert (metrics["is_skipped"], int(state.step)) == (0, 4)
    assert bits(jax.device_get(state.params)) != bits(before[0])


def is_bad(loss, *, mean, accepted=1000, norm=1.0, **options):
    guard = first_guard()._replace(mean_loss=jnp.float32(mean), accepted=jnp.int32(accepted))
    found = AnomalyConfig(**options).is_bad(
        guard, loss=jnp.float32(loss), gradient_norm=jnp.float32(norm)
    )
    return bool(found)


def test_what_a_spike_is():
    assert is_bad(6.1, mean=2.0)
    assert not is_bad(5.9, mean=2.0)
    assert is_bad(4.1, mean=2.0, max_loss_factor=2.0)
    assert not is_bad(1e9, mean=2.0, max_loss_factor=None)
    assert is_bad(NAN, mean=2.0, max_loss_factor=None)
    assert is_bad(2.0, mean=2.0, norm=INF, max_loss_factor=None)
    # The first losses are not judged, nor by how much small ones differ.
    assert not is_bad(1e9, mean=2.0, accepted=19)
    assert is_bad(1e9, mean=2.0, accepted=20)
    assert not is_bad(2.9, mean=0.01)
    assert is_bad(3.1, mean=0.01)


def test_the_mean_is_one_from_the_start_and_follows_accepted_steps_alone():
    def mean(*losses, bad=(), tokens=8.0):
        guard = first_guard()
        for index, loss in enumerate(losses):
            is_bad = jnp.bool_(index in bad)
            guard = guard.after(is_bad, jnp.float32(loss), jnp.float32(tokens))
        return float(guard.mean_loss), int(guard.accepted)

    # 1 - 0.99^n loses two digits of float32's seven.
    assert mean(5.0) == (pytest.approx(5.0, rel=1e-5), 1)
    assert mean(4.0, 2.0)[0] == pytest.approx((0.99 * 4 + 2) / 1.99, rel=1e-5)
    assert mean(3.0, NAN, 9e9, 3.0, bad=(1, 2)) == (pytest.approx(3.0, rel=1e-5), 2)
    assert mean(7.0, tokens=0.0) == (0.0, 0)
    weights = 0.99 ** np.arange(300)[::-1]
    expected = np.average(np.linspace(9, 3, 300), weights=weights)
    assert mean(*np.linspace(9, 3, 300))[0] == pytest.approx(expected, rel=1e-5)


def record(loss=2.0, norm=1.0, in_a_row=0, **more):
    """The metrics of step 7."""
    skipped = {"is_skipped": float(in_a_row > 0), "skipped_in_a_row": float(in_a_row)}
    return {"step": 7, "loss": loss, "gradient_norm": norm, **skipped, **more}


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (record(NAN, NAN, 1), "step 7 is skipped: its loss is not finite (loss nan, gradient"),
        (record(2.0, INF, 1), "its gradient is not finite (loss 2, gradient norm inf)"),
        (record(70.0, 9.0, 1), "its loss is more than 3 times the mean of those before (loss 70"),
    ],
)
def test_what_is_said_of_a_skipped_step(figures, words):
    verdict = judge(figures, GUARD)
    assert words in verdict.message
    assert not verdict.must_roll_back


def test_a_run_goes_back_after_so_many_in_a_row():
    assert judge(record(), GUARD) is None
    rolled = [judge(record(NAN, in_a_row=n), GUARD).must_roll_back for n in range(1, 8)]
    assert rolled == [False] * 4 + [True] * 3
    assert judge(record(NAN, in_a_row=1), AnomalyConfig(patience=1)).must_roll_back


def test_each_step_is_judged_once_when_the_next_is_dispatched():
    def on_device(**figures):
        return {name: jnp.float32(value) for name, value in record(**figures).items()}

    watch = AnomalyWatch(GUARD)
    said = [
        watch.push(1, on_device()),
        watch.push(2, on_device(loss=NAN, in_a_row=1)),
        watch.push(3, on_device(norm=INF, in_a_row=2)),
        watch.flush(),
        watch.flush(),
        watch.push(4, on_device()),
    ]
    assert [each and (each.step, each.in_a_row) for each in said] == [
        *(None, None, (2, 1), (3, 2), None, None)
    ]
    assert type(said[2]) is Verdict
    assert AnomalyWatch(None).push(1, {}) is None


def test_the_guard_is_whole_on_every_device():
    layout = ParallelConfig(layout="fsdp").build()
    for leaf in abstract_guard(layout.sharding()):
        assert leaf.shape == ()
        assert leaf.sharding.is_fully_replicated
