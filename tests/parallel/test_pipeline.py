"""S stages, M microbatches, R rounds, L layers, B rows."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.objectives import CausalLm
from jaxllm.optim import AdamW
from jaxllm.optim.schedules import Linear
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.pipeline import Schedule, check_pipeline, run_pipeline, schedule_for
from jaxllm.parallel.shard import batch_sharding, global_batch
from jaxllm.parallel.stages import outside
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

LAYERS, ROWS = 8, 32
LAYOUTS = {
    "stage_data": ParallelConfig(stage=4, data=2, pipeline_microbatches=8),
    "stage_fsdp_tensor": ParallelConfig(stage=2, fsdp=2, tensor=2, pipeline_microbatches=4),
    "rounds": ParallelConfig(
        layout="zero1", slice=2, stage=2, fsdp=2, pipeline_microbatches=4, pipeline_rounds=2
    ),
}


@pytest.mark.parametrize(("S", "M", "R"), [(1, 3, 1), (4, 8, 1), (2, 2, 3), (3, 6, 2)])
def test_every_microbatch_passes_all_layers_in_order_without_waiting(S, M, R):
    schedule = Schedule(S, M, R)
    visits = {}
    for tick in range(schedule.num_ticks):
        for stage in range(S):
            job = tick - stage
            if 0 <= job < schedule.num_jobs:
                visit = (tick, schedule.round(job) * S + stage)
                visits.setdefault(schedule.microbatch(job), []).append(visit)
    assert sorted(visits) == list(range(M))
    for passed in visits.values():
        first = passed[0][0]
        assert passed == [(first + place, place) for place in range(S * R)]
    assert schedule.bubble == (S - 1) / (M * R + S - 1)


def toy(layout, *, rounds, **changes):
    """x -> 2 x + weight + the row's number, through all layers; each sums x over the rows."""

    def stage_fn(x, layers, rows):
        def layer(x, weight):
            return 2 * x + weight + rows[:, None], x.sum(0)

        return jax.lax.scan(layer, x, layers)

    def run(x, weights, rows):
        folded = weights.reshape(rounds, -1)
        policy = jax.checkpoint_policies.nothing_saveable
        return run_pipeline(stage_fn, x, folded, rows, layout=layout, tick_policy=policy)

    return run


@pytest.mark.parametrize(
    "parallel",
    [
        LAYOUTS["stage_data"],
        LAYOUTS["rounds"],
        ParallelConfig(slice=2, stage=2, data=2, pipeline_microbatches=2, pipeline_rounds=4),
    ],
)
def test_rows_come_out_in_their_places_and_sums_in_the_layers_order(parallel):
    """All numbers are integers below 2^24, which float32 adds exactly; so are the gradients."""
    layout = parallel.build()
    run = toy(layout, rounds=parallel.pipeline_rounds)
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (ROWS, 3)).astype(np.float32)
    weights = rng.integers(-9, 9, LAYERS).astype(np.float32)
    rows = np.arange(ROWS, dtype=np.float32)
    into_y = rng.integers(-9, 9, (ROWS, 3)).astype(np.float32)
    into_sums = rng.integers(-9, 9, (LAYERS, 3)).astype(np.float32)

    def reference(x, weights):
        sums = []
        for weight in weights:
            sums.append(x.sum(0))
            x = 2 * x + weight + rows[:, None]
        return x, jnp.stack(sums)

    def weighted(function):
        def total(x, weights):
            y, sums = function(x, weights)
            return (y * into_y).sum() + (sums * into_sums).sum(), (y, sums)

        return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)

    x = jax.device_put(x, batch_sharding(layout, 2))
    found = tiny.fast(weighted(lambda x, weights: run(x, weights, rows)))(x, weights)
    jax.tree.map(np.testing.assert_array_equal, found, tiny.fast(weighted(reference))(x, weights))


def test_no_row_changes_its_device_but_to_be_computed():
    layout = LAYOUTS["stage_data"].build()
    x = jax.ShapeDtypeStruct((ROWS, 3), jnp.float32, sharding=batch_sharding(outside(layout), 2))
    weights = jax.ShapeDtypeStruct((LAYERS,), jnp.float32, sharding=layout.sharding(("layers",)))
    run = toy(layout, rounds=1)
    program = tiny.fast(lambda x, w: run(x, w, jnp.zeros(ROWS))[0]).lower(x, weights).compile()
    text = program.as_text()
    assert "collective-permute" in text
    assert not any(word in text for word in ("all-to-all", "all-gather"))


def test_a_small_batch_passes_in_fewer_microbatches():
    layout = LAYOUTS["stage_data"].build()  # 4 stages x 2 devices
    assert schedule_for(layout, 32).num_microbatches == 8
    assert schedule_for(layout, 24).num_microbatches == 4
    with pytest.raises(ValueError, match=r"12 rows .* 8 devices .* data\.global_batch_size"):
        schedule_for(layout, 12)


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({"pipeline_rounds": 2}, {"num_layers": 12}, "model.num_layers is 12.*pipeline_rounds"),
        ({"pipeline_microbatches": 6}, {}, "parallel.pipeline_microbatches is 6.*parallel.stage"),
        ({}, {"rows": 24}, "data.global_batch_size.* 24 rows.*multiple of 16"),
    ],
)
def test_what_a_pipeline_cannot_take_is_refused(changes, sizes, message):
    layout = LAYOUTS["stage_data"].model_copy(update=changes).build()
    with pytest.raises(ValueError, match=message):
        check_pipeline(layout, **({"num_layers": 8, "rows": 32} | sizes))
    check_pipeline(LAYOUTS["stage_data"].build(), num_layers=8, rows=32)
    check_pipeline(ParallelConfig().build(), num_layers=3, rows=5)


def train(parallel, devices=None):
    """Three steps of a decoder with dropout: metrics, last weights in natural order, program."""
    config = tiny.config(num_layers=4, dropout=0.1, remat="full")
    # Adam divides by the size of each gradient; this eps lets rounding stay rounding.
    optim = AdamW(learning_rate=0.02, eps=1e-3, schedule=Linear(warmup_steps=1))
    layout, model = parallel.build(devices), tiny.abstract(config)
    specs = fold_specs(spec_dict(model), parallel.pipeline_rounds)
    optimizer = optim.build(specs, total_steps=9)
    natural = param_dict(tiny.decoder(config))

    def first(_):
        return new_state(fold(natural, specs), optimizer, None)

    key = jax.random.key(0)
    shardings = state_shardings(jax.eval_shape(first, key), specs, layout)
    step = make_train_step(
        make_loss(CausalLm(z_loss=1e-3), model, layout),
        optimizer,
        specs=specs,
        layout=layout,
        seed=7,
        schedule=optim.schedule_fn(9),
    )
    state, history = init_sharded(first, key, shardings), []
    scored = [tiny.LENGTH] * 10 + [5, 1, 0, 9, 12, 3]
    batches = [
        global_batch(layout, tiny.batch(seed, rows=16, scored=scored), rows=16) for seed in range(3)
    ]
    step = tiny.fast(step, out_shardings=(shardings, layout.sharding()))
    compiled = step.lower(state, batches[0]).compile()
    for batch in batches:
        state, metrics = compiled(state, batch)
        history.append(jax.device_get(metrics))
    params = jax.tree.map(lambda a, like: np.asarray(a).reshape(like.shape), state.params, natural)
    return history, params, compiled.as_text()


@cache
def on_one_device():
    return train(ParallelConfig(layout="replicated"), jax.devices()[:1])


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_pipelined_decoder_trains_as_on_one_device(name):
    history, params, program = train(LAYOUTS[name])
    expected_history, expected_params, _ = on_one_device()
    for metrics, expected in zip(history, expected_history, strict=True):
        for key, value in metrics.items():
            # Sums in another order, in float32.
            np.testing.assert_allclose(value, expected[key], rtol=1e-5, err_msg=key)
    # Gradients of size one are rounded by 6e-8; AdamW hands it on times rate / eps = 20, in
    # three steps.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), params, expected_params
    )
    # Where weights are whole along the axes of rows, their gradients are summed over those once,
    # and not in each tick: no loop has a sum over devices.
    sums = [line for line in program.splitlines() if " all-reduce(" in line]
    is_whole = name != "stage_fsdp_tensor"
    assert is_whole == (not any("while/body" in line for line in sums))
