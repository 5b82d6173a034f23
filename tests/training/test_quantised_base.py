"""Steps that train adapters beside weights that are small integers."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.adapters import LoraConfig, is_adapter
from jaxllm.nn.param import spec_dict
from jaxllm.nn.parts import part_like, split
from jaxllm.nn.quantised import dequantised, quantiser, unquantised, with_placed_scales
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.objectives import CausalLm
from jaxllm.optim import AdamW
from jaxllm.optim.schedules import Linear
from jaxllm.parallel.layouts import weight_items, weight_shardings
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import global_batch
from jaxllm.training.fingerprint import fingerprint
from jaxllm.training.replicas import StateHash
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

ROWS, STEPS, TOTAL_STEPS = 8, 3, 100
OPTIM = AdamW(learning_rate=0.02, eps=1e-3, schedule=Linear())
ONE_DEVICE = ParallelConfig(layout="replicated").build(jax.devices()[:1])
LAYOUTS = {
    # Of eight devices along the inputs each has a half of a tile.
    "fsdp": ParallelConfig(layout="fsdp", fsdp=8),
    "fsdp_tensor": ParallelConfig(layout="fsdp", tensor=2),
    "stages": ParallelConfig(layout="fsdp", stage=2, data=2, pipeline_microbatches=2),
    "rounds": ParallelConfig(
        layout="fsdp", stage=2, data=4, pipeline_microbatches=2, pipeline_rounds=2
    ),
}


class Run(NamedTuple):
    """A step, its first state, and the declarations of the weights that stay."""

    step: object
    state: object
    frozen: dict


DENSE = tiny.config(num_layers=4, remat="full")
ADAPTER = {"rank": 2, "targets": ("*.query", "*.down"), "dropout": 0.2, "has_magnitude": True}
# Two devices share the three tiles of an expert's last matrix.
MIXTURE = tiny.config(num_layers=2, remat="full", moe={"num_experts": 4, "expert_dim": 24})
EXPERTS = {"rank": 2, "targets": ("*.query", "*.experts")}


def make(layout, *, base, config=DENSE, adapter=ADAPTER):
    """A run with adapters. base: of QuantisedConfig; None is the same weights dequantised."""
    given = {"dtype": "int4", "tile": 8} if base is None else base

    def build(key, base):
        model = config.build(key, tiny.VOCAB)
        LoraConfig(base=base, **adapter).attach(key, model)
        return model

    key = jax.random.key(0)
    rounded = jax.eval_shape(lambda key: build(key, given), key)
    model = jax.eval_shape(lambda key: build(key, base), key)
    rounds = layout.pipeline.num_rounds if layout.pipeline else 1
    specs = with_placed_scales(layout, fold_specs(spec_dict(model), rounds))
    paths = {path for path, _ in weight_items(specs)}
    trained, others = split(specs, {path for path in paths if is_adapter(path)})
    optimizer = OPTIM.build(trained, total_steps=TOTAL_STEPS)
    params = weights(spec_dict(rounded))
    params = dequantised(params) if base is None else params

    def first(key):
        whole = fold(jax.tree.map(jnp.asarray, params), specs)
        frozen = part_like(whole, others)
        return new_state(part_like(whole, trained), optimizer, None, frozen=frozen)

    shardings = state_shardings(jax.eval_shape(first, key), trained, layout, frozen=others)
    step = make_train_step(
        make_loss(CausalLm(), model, layout),
        optimizer,
        specs=trained,
        layout=layout,
        seed=7,
        schedule=OPTIM.schedule_fn(TOTAL_STEPS),
    )
    jitted = tiny.fast(step, donate_argnums=0, out_shardings=(shardings, layout.sharding()))
    return Run(jitted, init_sharded(first, key, shardings), others)


def weights(specs):
    """Random weights, rounded where the declarations have integers."""
    rng, plain = np.random.default_rng(0), unquantised(specs)
    params = jax.tree.map(
        lambda spec: np.float32(max(spec.fan_in, 1) ** -0.5 * rng.normal(size=spec.shape)), plain
    )
    shapes = jax.tree.map_with_path(
        lambda path, spec, where: jax.ShapeDtypeStruct(
            spec.shape, jnp.int4 if path[-1].key == "integers" else jnp.float32, sharding=where
        ),
        specs,
        weight_shardings(ONE_DEVICE, specs),
    )
    convert = quantiser(shapes)
    rounded = jax.tree.map_with_path(
        lambda path, leaf: convert(".".join(key.key for key in path), jnp.asarray(leaf)), params
    )
    return jax.device_get(rounded)


def train(run, layout):
    """(last state, what is trained and the metrics after each step, on the host)."""
    state, history = jax.tree.map(jnp.copy, run.state), []
    for seed in range(STEPS):
        batch = tiny.batch(seed, rows=ROWS)
        state, metrics = run.step(state, global_batch(layout, batch, rows=ROWS))
        history.append(jax.device_get((state.params, metrics)))
    return state, history


INT4 = {"dtype": "int4", "tile": 8}


@cache
def alone(*, is_rounded=True):
    """On one device: the run, its last state and its history."""
    run = make(ONE_DEVICE, base=INT4 if is_rounded else None)
    return run, *train(run, ONE_DEVICE)


def bits(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def test_it_trains_as_beside_the_same_weights_in_floating_point():
    """Bit for bit: what differs is where the product of integer and scale is taken."""
    (_, _, history), (_, _, plain) = alone(), alone(is_rounded=False)
    for (params, metrics), (others, other_metrics) in zip(history, plain, strict=True):
        assert metrics["loss"] == other_metrics["loss"]
        assert bits(params) == bits(others)


def test_no_integer_or_scale_changes_and_all_that_learns_does():
    run, state, history = alone()
    assert bits(state.frozen) == bits(run.state.frozen)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state.frozen)}
    assert dtypes == {jnp.dtype(jnp.int4), jnp.dtype(jnp.float32)}
    before, after = bits(run.state.params), bits(history[-1][0])
    assert not [path for path in before if before[path] == after[path]]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_what_one_device_does(layout):
    layout = LAYOUTS[layout].build()
    run = make(layout, base=INT4)
    jax.tree.map(lambda leaf, spec: assert_cut(layout, leaf, spec), run.state.frozen, run.frozen)
    assert_same(train(run, layout)[1], alone()[2])


@pytest.mark.slow
def test_experts_of_integers_learn_on_many_devices_what_they_do_on_one():
    options = {"base": INT4, "config": MIXTURE, "adapter": EXPERTS}
    layout = ParallelConfig(layout="fsdp", expert=2, fsdp=2, tensor=2).build()
    one, run = make(ONE_DEVICE, **options), make(layout, **options)
    jax.tree.map(lambda leaf, spec: assert_cut(layout, leaf, spec), run.state.frozen, run.frozen)
    state, history = train(run, layout)
    assert bits(state.frozen) == bits(one.state.frozen)
    kernel = state.frozen["blocks"]["layers"]["moe"]["experts"]["down"]["kernel"]
    assert (kernel["integers"].dtype, kernel["scale"].shape) == (jnp.int4, (2, 4, 3, 32))
    # Slopes of experts are sums over few tokens each: their norm is rounded more.
    assert_same(history, train(one, ONE_DEVICE)[1], rtol=5e-5)


def assert_same(history, expected, *, rtol=1e-5):
    for (params, metrics), (other_params, other_metrics) in zip(history, expected, strict=True):
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=rtol)
        # Float32's rounding of gradients of size one, times rate / eps = 20, three steps.
        jax.tree.map(
            lambda found, wanted: np.testing.assert_allclose(
                found.reshape(wanted.shape), wanted, rtol=0, atol=2e-5
            ),
            params,
            other_params,
        )


def assert_cut(layout, leaf, spec):
    cut = [n // layout.degree(axis) for n, axis in zip(spec.shape, spec.axes, strict=True)]
    assert {shard.data.shape for shard in leaf.addressable_shards} == {tuple(cut)}


def test_hashes_tell_a_changed_integer():
    run, _, _ = alone()
    frozen = run.state.frozen
    first, hashed = fingerprint(frozen), StateHash(frozen)
    up = frozen["blocks"]["layers"]["mlp"]["up"]["kernel"]
    integers = np.array(up["integers"])
    integers[1, 2, 3] = -integers[1, 2, 3] or 1
    whole = jax.tree.map(lambda leaf: leaf, frozen)
    other = jax.device_put(integers, up["integers"].sharding)
    whole["blocks"]["layers"]["mlp"]["up"]["kernel"]["integers"] = other
    assert fingerprint(whole) != first
    before, after = np.asarray(hashed(frozen)), np.asarray(hashed(whole))
    assert (before != after).sum() == 1
