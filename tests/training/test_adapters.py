"""Steps that train some weights of a network beside others that stay as they are."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.adapters import LoraConfig, is_adapter
from jaxllm.nn.bottleneck import BottleneckConfig
from jaxllm.nn.param import spec_dict
from jaxllm.nn.parts import matching, part_like, split
from jaxllm.objectives import CausalLm
from jaxllm.optim import AdamW, EmaConfig
from jaxllm.optim.schedules import Linear
from jaxllm.parallel.layouts import weight_items
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import global_batch
from jaxllm.training.anomaly import AnomalyConfig
from jaxllm.training.fingerprint import fingerprint
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

ROWS, STEPS, TOTAL_STEPS = 8, 3, 100
CONFIG = tiny.config(num_layers=2)
OPTIM = AdamW(learning_rate=0.02, eps=1e-3, schedule=Linear())
ADAPTERS = {
    "lora": LoraConfig(rank=2, dropout=0.2, targets=("*.query", "*.down"), has_magnitude=True),
    "bottleneck": BottleneckConfig(size=6, targets=("*.attention", "*.mlp")),
}
# Another network, with experts.
CONFIGS = {"experts": tiny.config(num_layers=2, moe={"num_experts": 4, "expert_dim": 24})}
EXPERTS = LoraConfig(
    rank=2,
    targets=("*.experts", "*.query"),
    is_rank_stabilised=True,
)
ONE_DEVICE = ParallelConfig(layout="replicated").build(jax.devices()[:1])
LAYOUTS = {
    "fsdp": ParallelConfig(layout="fsdp", data=2),
    "fsdp_tensor": ParallelConfig(layout="fsdp", tensor=2),
    "zero1_context": ParallelConfig(layout="zero1", context=2),
    "stages": ParallelConfig(layout="fsdp", stage=2, data=2, pipeline_microbatches=2),
    "stages_tensor": ParallelConfig(layout="fsdp", stage=2, tensor=2, pipeline_microbatches=2),
}
# The others, which are slow, have nothing that one of these has not.
CASES = [("lora", "fsdp_tensor"), ("bottleneck", "stages_tensor")]
CASES += [
    pytest.param(kind, name, marks=pytest.mark.slow)
    for kind in ADAPTERS
    for name in LAYOUTS
    if (kind, name) not in CASES
]
LAYOUTS["experts"] = ParallelConfig(layout="fsdp", expert=2, fsdp=2, tensor=2)
CASES.append(pytest.param("experts", "experts", marks=pytest.mark.slow))
KINDS = [*ADAPTERS, "blocks", pytest.param("experts", marks=pytest.mark.slow)]


class Run(NamedTuple):
    """A step, its first state, and the declarations of both parts of the weights."""

    step: object
    state: object
    trained: dict
    frozen: dict


def make(layout, kind, *, network=None, num_microbatches=1):
    """A run with adapters of a kind, or one that leaves alone what a pattern matches.

    network: of CONFIGS, that of the kind where it is None.
    """
    config = CONFIGS.get(network or kind, CONFIG)
    adapter = EXPERTS if kind == "experts" else ADAPTERS.get(kind)

    def build(key):
        model = config.build(key, tiny.VOCAB)
        if adapter is not None:
            adapter.attach(key, model)
        return model

    model = jax.eval_shape(build, jax.random.key(0))
    specs = spec_dict(model)
    paths = {path for path, _ in weight_items(specs)}
    chosen = {path for path in paths if is_adapter(path)}
    if adapter is None:
        chosen = paths - matching([kind], paths, key="training.frozen")
    trained, others = split(specs, chosen)
    optimizer = OPTIM.build(trained, total_steps=TOTAL_STEPS)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: np.float32(max(spec.fan_in, 1) ** -0.5 * rng.normal(size=spec.shape)), specs
    )

    def first(key):
        weights = jax.tree.map(jnp.asarray, params)
        return new_state(
            part_like(weights, trained),
            optimizer,
            EmaConfig(decay=0.9),
            has_guard=True,
            frozen=part_like(weights, others),
        )

    key = jax.random.key(0)
    shardings = state_shardings(jax.eval_shape(first, key), trained, layout, frozen=others)
    step = make_train_step(
        make_loss(CausalLm(), model, layout),
        optimizer,
        specs=trained,
        layout=layout,
        seed=7,
        schedule=OPTIM.schedule_fn(TOTAL_STEPS),
        num_microbatches=num_microbatches,
        ema=EmaConfig(decay=0.9),
        anomalies=AnomalyConfig(),
    )
    jitted = tiny.fast(step, donate_argnums=0, out_shardings=(shardings, layout.sharding()))
    return Run(jitted, init_sharded(first, key, shardings), trained, others)


def train(run, layout):
    """(last state, what is trained and the metrics after each step, on the host)."""
    state, history = jax.tree.map(jnp.copy, run.state), []
    for seed in range(STEPS):
        batch = tiny.batch(seed, rows=ROWS)
        state, metrics = run.step(state, global_batch(layout, batch, rows=ROWS))
        history.append(jax.device_get((state.params, state.ema, metrics)))
    return state, history


@cache
def alone(kind):
    """On one device: the run, its last state and its history."""
    run = make(ONE_DEVICE, kind)
    return run, *train(run, ONE_DEVICE)


def bits(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_keeps_every_bit_and_all_else_moves(kind):
    run, state, history = alone(kind)
    assert bits(state.frozen) == bits(run.state.frozen)
    before, after = bits(run.state.params), bits(state.params)
    assert before.keys() == after.keys()
    assert not [path for path in before if before[path] == after[path]]
    assert all(np.isfinite(metrics["loss"]) for _, _, metrics in history)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_kept_or_computed_for_what_is_frozen(kind):
    """No moment, average or gradient; and of the products of a step a third less, or nearly."""
    run, _, _ = alone(kind)
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(run.state.params))
    assert sorted(leaf.shape for leaf in jax.tree.leaves(run.state.ema)) == shapes
    moments = sorted(leaf.shape for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim)
    assert moments == sorted([*shapes, *shapes])
    # Of forward, backward to activations and backward to weights the last is hardly there.
    assert flops(run) < 0.8 * flops(make(ONE_DEVICE, "norm", network=kind))


def flops(run):
    """Operations of a step as it is written down; those of a loop's body count once."""
    lowered = jax.jit(run.step.__wrapped__).lower(run.state, tiny.batch(0, rows=ROWS))
    return lowered.cost_analysis()["flops"]


@pytest.mark.parametrize(("kind", "layout"), CASES)
def test_every_layout_computes_what_one_device_does(kind, layout):
    layout = LAYOUTS[layout].build()
    run = make(layout, kind, num_microbatches=2 if layout.axis_size("tensor") > 1 else 1)
    for part, specs in ((run.state.params, run.trained), (run.state.frozen, run.frozen)):
        jax.tree.map(partial(assert_cut, layout), part, specs)
    state, history = train(run, layout)
    assert fingerprint(state.frozen) == fingerprint(alone(kind)[1].frozen)
    for (params, ema, metrics), (other_params, other_ema, other_metrics) in zip(
        history, alone(kind)[2], strict=True
    ):
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=1e-5)
        # Float32's rounding of gradients of size one, times rate / eps = 20, three steps.
        for found, wanted in ((params, other_params), (ema, other_ema)):
            jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), found, wanted)


def assert_cut(layout, leaf, spec):
    cut = [n // layout.degree(axis) for n, axis in zip(spec.shape, spec.axes, strict=True)]
    assert {shard.data.shape for shard in leaf.addressable_shards} == {tuple(cut)}


def test_a_fingerprint_tells_every_bit():
    _, state, _ = alone("lora")
    first = fingerprint(state.frozen)
    table = np.array(state.frozen["embed"]["table"])
    table.view(np.uint32)[3, 5] ^= 1
    sharding = state.frozen["embed"]["table"].sharding
    other = {**state.frozen, "embed": {"table": jax.device_put(table, sharding)}}
    assert fingerprint(other) != first
    swapped = np.array(state.frozen["embed"]["table"])[::-1]
    other["embed"] = {"table": jax.device_put(swapped, sharding)}
    assert fingerprint(other) != first
    assert fingerprint(state.frozen) == first
