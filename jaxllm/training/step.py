"""One training step: gradients, accumulated over microbatches, and the update. Pure.

B rows of the batch, A microbatches.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from pydantic import PositiveInt

from jaxllm.nn.param import Nested, bind
from jaxllm.nn.parts import joined
from jaxllm.nn.router import RouterSums, router_metrics
from jaxllm.objectives.base import Batch, LossSums
from jaxllm.optim import EmaConfig
from jaxllm.parallel.layouts import Layout, weight_shardings
from jaxllm.parallel.shard import dealt_out
from jaxllm.schema import Config
from jaxllm.training.anomaly import AnomalyConfig, kept_if
from jaxllm.training.state import TrainState
from jaxllm.training.watchdog import WatchdogConfig

LossFn = Callable[[Nested, Batch, jax.Array | None], LossSums]
Rebalance = Callable[[Nested, RouterSums], Nested]
StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


class TrainingConfig(Config):
    """How long a run is, and how a step is computed."""

    steps: PositiveInt
    """Length of the run, in optimizer steps."""
    num_microbatches: PositiveInt = 1
    """Parts a global batch is computed in, one after the other; more need less memory."""
    frozen: tuple[str, ...] = ()
    """Weights that stay as init_from has them, by patterns over their paths, as 'blocks' or
    '*.attention.query'; the run saves only the others."""
    ema: EmaConfig | None = None
    """Moving average of the weights, used by evaluation and samples; null is off."""
    anomalies: AnomalyConfig | None = AnomalyConfig()
    """Which steps are skipped because their loss or gradient is no good; null skips none."""
    replica_check_every: PositiveInt | None = None
    """Steps between checks that devices that hold the same part of the state hold the same bits,
    made before each save too; null makes none."""
    repeat_check_every: PositiveInt | None = None
    """Steps between those that are computed twice and compared bit by bit; null makes none."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """When a run that does not get on is ended, so that it can be started again."""


def make_loss(objective: Any, model: Any, layout: Layout) -> LossFn:
    """The objective as a function of weights, batch and the examples' keys (None: no dropout)."""

    def loss(params: Nested, batch: Batch, keys_B: jax.Array | None) -> LossSums:
        # Losses are sums over positions and rotary angles come with the batch.
        batch = {
            name: field if field is None or field.ndim < 2 else dealt_out(layout, field)
            for name, field in batch.items()
        }
        return objective(bind(model, params), batch, keys_B=keys_B, layout=layout)

    return loss


def example_keys(seed: int, step: jax.Array, example_index_B: jax.Array) -> jax.Array:
    """One key an example, from the seed, the step and the example's global index alone.

    It therefore depends neither on how the batch is sharded nor on what was run before.
    """
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda index: jax.random.fold_in(step_key, index))(example_index_B)


def make_train_step(
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    specs: Nested,
    layout: Layout,
    seed: int,
    schedule: optax.Schedule,
    num_microbatches: int = 1,
    ema: EmaConfig | None = None,
    rebalance: Rebalance | None = None,
    anomalies: AnomalyConfig | None = None,
) -> StepFn:
    """(state, batch) -> (state after one update, metrics of the batch before it).

    specs: of the weights that are trained. rebalance: moves the routers' biases of the updated
    weights, which have no gradient. anomalies: which steps leave all of the state but `step` and
    `guard` as it was, bit for bit.

    Metrics: loss (mean -log p of a target in nats), objective (what is minimised, a mean too),
    gradient_norm (before clipping), learning_rate and num_tokens, float32 scalars; with a mixture
    of experts also those of `router_metrics`, and with a guard those of `GuardState`.
    """
    # Where their optimizer state lies: what is updated in pieces is reduced in pieces.
    gradient_shardings = weight_shardings(layout.for_optimizer(), specs)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        keys_B = example_keys(seed, state.step, batch["example_index"])
        # Weighing by the tokens of the whole batch makes accumulation equal to one large batch.
        weight = 1.0 / jnp.maximum(jnp.sum(batch["loss_mask"].astype(jnp.float32)), 1.0)

        def weighted(params: Nested, part: Batch, part_keys: jax.Array) -> tuple[Any, LossSums]:
            sums = loss(joined(params, state.frozen), part, part_keys)
            return sums.loss * weight + router_loss(sums.router, num_microbatches), sums

        grad = jax.grad(weighted, has_aux=True)
        if num_microbatches == 1:
            gradients, sums = grad(state.params, batch, keys_B)
        else:
            gradients, sums = accumulate(
                grad, state.params, (batch, keys_B), num_microbatches, layout
            )
        gradients = jax.lax.with_sharding_constraint(gradients, gradient_shardings)
        opt_before = state.opt_state
        if layout.is_optimizer_offloaded:
            opt_before = jax.device_put(opt_before, jax.memory.Space.Device)
        updates, opt_state = optimizer.update(gradients, opt_before, state.params)
        params = optax.apply_updates(state.params, updates)
        if rebalance is not None and sums.router is not None:
            params = rebalance(params, sums.router)
        averaged = None if ema is None else ema.update(state.ema, params)
        metrics = {
            "loss": sums.nll * weight,
            "objective": sums.loss * weight + router_loss(sums.router, 1),
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": jnp.asarray(schedule(updates_done(state)), jnp.float32),
            "num_tokens": sums.num_tokens,
        }
        if sums.router is not None:
            metrics |= router_metrics(sums.router)
        new = TrainState(state.step + 1, params, opt_state, averaged, frozen=state.frozen)
        if anomalies is None:
            return new, metrics
        was = state._replace(opt_state=opt_before)
        return guarded(was, new, metrics, anomalies=anomalies, platform=layout.platform)

    return train_step


def guarded(
    was: TrainState,
    new: TrainState,
    metrics: dict[str, jax.Array],
    *,
    anomalies: AnomalyConfig,
    platform: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """`new` and its metrics; where the step is bad, `was` but for its count of steps."""
    assert was.guard is not None, "the state was made without a guard"
    loss = metrics["loss"]
    is_bad = anomalies.is_bad(was.guard, loss=loss, gradient_norm=metrics["gradient_norm"])
    params, opt_state, ema = kept_if(
        is_bad,
        (was.params, was.opt_state, was.ema),
        (new.params, new.opt_state, new.ema),
        platform=platform,
    )
    guard = was.guard.after(is_bad, loss, metrics["num_tokens"])
    state = TrainState(new.step, params, opt_state, ema, guard, was.frozen)
    return state, metrics | guard.metrics()


def updates_done(state: TrainState) -> jax.Array:
    """Steps that changed the weights: the optimizer's count, which its schedule follows."""
    return state.step if state.guard is None else state.step - state.guard.skipped


def router_loss(sums: RouterSums | None, num_microbatches: int) -> jax.Array | float:
    """A microbatch's part in the routers' mean loss over the positions of the whole batch."""
    if sums is None:
        return 0.0
    return jnp.sum(sums.loss / sums.num_positions) / num_microbatches


def accumulate(
    grad: Callable, params: Nested, parts: Any, num_microbatches: int, layout: Layout
) -> tuple[Nested, LossSums]:
    """Sum gradients and losses over microbatches, one after the other, in float32."""
    parts_A = jax.tree.map(lambda x: microbatches(x, num_microbatches, layout), parts)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, grad(params, *part)), None

    first = jax.tree.map(lambda x: x[0], parts_A)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(grad, params, *first)
    )
    return jax.lax.scan(add, zeros, parts_A)[0]


def microbatches(x: jax.Array, num_microbatches: int, layout: Layout) -> jax.Array:
    """(B, ...) -> (A, B / A, ...), every A-th row together, so that no row changes its device."""
    x = x.reshape(x.shape[0] // num_microbatches, num_microbatches, *x.shape[1:])
    x = jnp.swapaxes(x, 0, 1)
    axes = (None, "batch", *(None,) * (x.ndim - 2))
    return jax.lax.with_sharding_constraint(x, layout.sharding(axes))
