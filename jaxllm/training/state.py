"""The state of a run, and where each of its arrays lives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxllm.nn.param import Nested
from jaxllm.nn.parts import joined
from jaxllm.optim import EmaConfig, state_axes
from jaxllm.parallel.layouts import Layout, weight_shardings
from jaxllm.training.anomaly import GuardState, first_guard


class TrainState(NamedTuple):
    """All that a step reads and replaces.

    step: int32, steps done. params: nested dict of the float32 weights that are trained.
    opt_state: Optax's. ema: their averages, or None. guard: what is known of skipped steps; None
    skips none. frozen: the network's other weights, which stay as they are; None where all are
    trained.
    """

    step: jax.Array
    params: Nested
    opt_state: Any
    ema: Nested | None
    guard: GuardState | None = None
    frozen: Nested | None = None

    @property
    def scored(self) -> Nested:
        """The whole network's weights, the averaged ones if there are any."""
        return joined(self.params if self.ema is None else self.ema, self.frozen)


def new_state(
    params: Nested,
    optimizer: optax.GradientTransformation,
    ema: EmaConfig | None,
    *,
    has_guard: bool = False,
    frozen: Nested | None = None,
) -> TrainState:
    """The state before the first step. has_guard: whether bad steps will be skipped.

    params: the weights that are trained. frozen: those that are not, None without any.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=None if ema is None else ema.init(params),
        guard=first_guard() if has_guard else None,
        frozen=frozen,
    )


def state_shardings(
    abstract: TrainState, specs: Nested, layout: Layout, *, frozen: Nested | None = None
) -> TrainState:
    """The sharding of every array of the state, as the layout's table says.

    specs, frozen: the declarations of the weights that are trained, and of those that are not.
    """
    weights = weight_shardings(layout, specs)
    axes, optimizer_layout = state_axes(abstract.opt_state, specs), layout.for_optimizer()

    def where(leaf: Any, leaf_axes: Any) -> NamedSharding:
        sharding = optimizer_layout.sharding(leaf_axes)
        # Step counts stay: they are not worth a transfer.
        is_away = layout.is_optimizer_offloaded and leaf.ndim > 0
        return sharding.with_memory_kind("pinned_host") if is_away else sharding

    return TrainState(
        step=layout.sharding(),
        params=weights,
        opt_state=jax.tree.map(where, abstract.opt_state, axes),
        ema=None if abstract.ema is None else weights,
        guard=jax.tree.map(lambda _: layout.sharding(), abstract.guard),
        frozen=None if frozen is None else weight_shardings(layout, frozen),
    )


def init_sharded(
    make_state: Callable[[jax.Array], TrainState], key: jax.Array, shardings: TrainState
) -> TrainState:
    """The initial state, computed straight into its shards: no device ever holds all of it."""
    return jax.jit(make_state, out_shardings=shardings)(key)


def abstract_with_shardings(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with their shardings: what a step compiles for and a restore targets."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )


def abstract_guard(sharding: NamedSharding) -> GuardState:
    """Shapes and dtypes of a guard with their sharding."""
    abstract = jax.eval_shape(first_guard)
    return abstract_with_shardings(abstract, jax.tree.map(lambda _: sharding, abstract))


def place_guard(sharding: NamedSharding) -> GuardState:
    """The guard in front of the first step, on the devices."""
    return jax.jit(first_guard, out_shardings=sharding)()
