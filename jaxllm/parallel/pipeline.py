"""A circular pipeline: microbatches pass around a ring of stages, once or several times.

S stages, M microbatches, R rounds, G = M / S groups of microbatches, K layers of a stage and
round, L = R S K. In round r stage s computes the layers (r S + s) K to (r S + s + 1) K, the
interleaved schedule of arXiv:2104.04473, run forward only; the backward pass is its transpose.

A group of S microbatches goes around R times before the next one enters, so that what leaves the
last stage is just in time for the first stage's next round and nothing waits in between. Of its
M R + S - 1 ticks a stage computes in M R: the bubble is (S - 1) / (M R + S - 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.stages import join_rows, manual_axes, num_row_pieces, split_rows

# Carry, weights and inputs of K layers, and what travels with the rows -> carry and K sums.
StageFn = Callable[[Any, Any, Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Schedule:
    """Who computes what when."""

    num_stages: int
    num_microbatches: int
    num_rounds: int

    def __post_init__(self) -> None:
        assert self.num_microbatches % self.num_stages == 0, self

    @property
    def num_groups(self) -> int:
        """Groups of as many microbatches as stages."""
        return self.num_microbatches // self.num_stages

    @property
    def num_jobs(self) -> int:
        """Ticks in which a stage computes."""
        return self.num_microbatches * self.num_rounds

    @property
    def num_ticks(self) -> int:
        """Ticks from the first stage's first job to the last one's last."""
        return self.num_jobs + self.num_stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks in which a stage has nothing to compute."""
        return (self.num_stages - 1) / self.num_ticks

    def microbatch(self, job: Any) -> Any:
        """The microbatch of a stage's n-th job."""
        group = job // (self.num_stages * self.num_rounds)
        return group * self.num_stages + job % self.num_stages

    def round(self, job: Any) -> Any:
        """The round of a stage's n-th job."""
        return job // self.num_stages % self.num_rounds


def check_pipeline(layout: Layout, *, num_layers: int, rows: int) -> None:
    """ValueError, naming the config keys, for sizes that a pipeline of this layout cannot take.

    rows: of a batch, or of its part where gradients are accumulated.
    """
    if layout.pipeline is None:
        return
    stages, rounds = layout.axis_size("stage"), layout.pipeline.num_rounds
    if num_layers % (stages * rounds):
        raise ValueError(
            f"model.num_layers is {num_layers}, which {stages} stages x {rounds} rounds do not "
            "divide; change it, parallel.stage or parallel.pipeline_rounds (the layers that "
            "model.moe.num_dense_layers sets apart count by themselves)"
        )
    parts = layout.pipeline.num_microbatches
    if parts % stages:
        raise ValueError(
            f"parallel.pipeline_microbatches is {parts}, which is no multiple of the {stages} "
            "stages; change it or parallel.stage"
        )
    devices = num_row_pieces(layout)
    if rows % (parts * devices):
        raise ValueError(
            f"data.global_batch_size / training.num_microbatches is {rows} rows, which do not "
            f"divide in {parts} microbatches on {devices} devices each; make it a multiple of "
            f"{parts * devices} or change parallel.pipeline_microbatches"
        )


def schedule_for(layout: Layout, rows: int) -> Schedule:
    """The schedule of a batch of `rows` rows.

    One that the configured number of microbatches does not divide, as a small validation batch,
    passes in fewer: in as many as both divide.
    """
    assert layout.pipeline is not None, "a layout without stages"
    stages = layout.axis_size("stage")
    devices = stages * num_row_pieces(layout)
    if rows % devices:
        raise ValueError(
            f"a batch of {rows} rows does not divide over the {devices} devices of a pipeline; "
            f"make data.global_batch_size a multiple of {devices}"
        )
    groups = math.gcd(layout.pipeline.num_microbatches // stages, rows // devices)
    return Schedule(stages, groups * stages, layout.pipeline.num_rounds)


def run_pipeline(
    stage_fn: StageFn, x: Any, layers: Any, rows: Any, *, layout: Layout, tick_policy: Callable
) -> tuple[Any, Any]:
    """x (B, ...) through all layers, and what each layer sums over the rows, stacked (L, ...).

    stage_fn: (x of one microbatch, K layers, rows of the microbatch) -> (x, sums, K each). It sees
    one stage: the mesh axes of `manual_axes` are manual, the others are the compiler's as before.
    x: arrays (B, ...), cut over the stages too. layers: arrays (R, L / R, ...), weights or not.
    rows: arrays (B, ...) that all layers read (positions, segments, keys); each stage has those of
    all microbatches. tick_policy: what `jax.checkpoint` keeps of `stage_fn`.

    Memory of each device: the M / S microbatches that it takes and gives, two in flight, and for
    the backward pass what `tick_policy` keeps in each of the M R + S - 1 ticks.
    """
    schedule = schedule_for(layout, jax.tree.leaves(x)[0].shape[0])
    groups = schedule.num_groups
    x_GSb = jax.tree.map(lambda leaf: split_rows(leaf, groups, layout, is_cut=True), x)
    rows_GSb = jax.tree.map(lambda leaf: split_rows(leaf, groups, layout, is_cut=False), rows)

    def one_stage(x_G1b: Any, layers_RK: Any, rows_GSb: Any) -> tuple[Any, Any]:
        x_Gb = jax.tree.map(lambda leaf: leaf[:, 0], x_G1b)
        rows_Mb = jax.tree.map(lambda leaf: jax.lax.collapse(leaf, 0, 2), rows_GSb)

        def compute(x: Any, job: jax.Array) -> tuple[Any, Any]:
            layers_K = _at(layers_RK, schedule.round(job))
            return stage_fn(x, layers_K, _at(rows_Mb, schedule.microbatch(job)))

        # Without it the weights of the round would be kept for the backward pass, once a tick.
        compute = jax.checkpoint(compute, policy=tick_policy, prevent_cse=False)
        y_Gb, sums_RK = _all_ticks(compute, x_Gb, schedule)
        sums_RK = jax.lax.psum(sums_RK, whole) if whole else sums_RK
        return jax.tree.map(lambda leaf: leaf[:, None], y_Gb), sums_RK

    whole = manual_axes(layout)[1:]
    cut_x, cut_layers = PartitionSpec(None, "stage", whole), PartitionSpec(None, "stage")
    y_GSb, sums_RL = jax.shard_map(
        one_stage,
        mesh=layout.mesh,
        in_specs=(cut_x, cut_layers, PartitionSpec(None, None, whole)),
        out_specs=(cut_x, cut_layers),
        axis_names={"stage", *whole},
        check_vma=False,  # the kernels inside do not say over which axes their results vary
    )(x_GSb, layers, rows_GSb)
    y = jax.tree.map(lambda leaf: join_rows(leaf, layout), y_GSb)
    return y, jax.tree.map(lambda leaf: jax.lax.collapse(leaf, 0, 2), sums_RL)


def _all_ticks(compute: Callable, x_Gb: Any, schedule: Schedule) -> tuple[Any, Any]:
    """What one stage does: `compute(x, job)` for all its jobs, one a tick, and handing on.

    Two rings turn, one place a tick. On the one, stage s to s + 1, go the microbatches in work;
    the other, s to s - 1, brings new ones to the first stage and takes finished ones away.
    """
    stage = jax.lax.axis_index("stage")

    def tick(carry: Any, now: jax.Array) -> tuple[Any, None]:
        x, passing, y_Gb, sums_RK = carry
        x, passing = _exchange(x, passing, x_Gb, now, schedule)
        # At the start and at the end a stage has no job and computes one for nothing.
        job = jnp.clip(now - stage, 0, schedule.num_jobs - 1)
        x, sums_K = compute(x, job)
        sums_K = _where(job == now - stage, sums_K, _zeros(sums_K))
        sums_RK = _add_at(sums_RK, sums_K, schedule.round(job))
        y_Gb = _store(y_Gb, passing, now, schedule)
        return (_shift(x, by=1, schedule=schedule), passing, y_Gb, sums_RK), None

    blank = _zeros(_at(x_Gb, 0))
    sums_K = jax.eval_shape(compute, blank, jnp.zeros((), jnp.int32))[1]
    sums_RK = jax.tree.map(
        lambda leaf: jnp.zeros((schedule.num_rounds, *leaf.shape), leaf.dtype), sums_K
    )
    start = (blank, blank, _zeros(x_Gb), sums_RK)
    (x, passing, y_Gb, sums_RK), _ = jax.lax.scan(tick, start, jnp.arange(schedule.num_ticks))
    # The last microbatch to be finished has yet to be taken away.
    end = jnp.asarray(schedule.num_ticks)
    _, passing = _exchange(x, passing, x_Gb, end, schedule)
    return _store(y_Gb, passing, end, schedule), sums_RK


def _exchange(
    x: Any, passing: Any, x_Gb: Any, tick: jax.Array, schedule: Schedule
) -> tuple[Any, Any]:
    """The first stage takes a new microbatch and puts a finished one in its place.

    Each stage lets go of one as a group begins. After S ticks the first stage has had them all,
    and each stage has a finished one of the group before where it had let go of one.
    """
    stages, period = schedule.num_stages, schedule.num_stages * schedule.num_rounds
    group, phase = tick // period, tick % period
    fresh = _at(x_Gb, jnp.minimum(group, schedule.num_groups - 1))
    passing = _where(phase == 0, fresh, passing)
    is_swapped = (jax.lax.axis_index("stage") == 0) & (phase < stages)
    handed_on = _shift(_where(is_swapped, x, passing), by=-1, schedule=schedule)
    return _where(is_swapped, passing, x), handed_on


def _store(y_Gb: Any, passing: Any, tick: jax.Array, schedule: Schedule) -> Any:
    """Finished microbatches of the group before; complete, and right, at the group's last tick."""
    group = tick // (schedule.num_stages * schedule.num_rounds) - 1
    return jax.tree.map(
        lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, jnp.maximum(group, 0), 0),
        y_Gb,
        passing,
    )


def _shift(x: Any, *, by: int, schedule: Schedule) -> Any:
    """Each stage's x, on the stage `by` places further around the ring."""
    size = schedule.num_stages
    ring = [(stage, (stage + by) % size) for stage in range(size)]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, "stage", ring), x)


def _where(condition: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), x, y)


def _at(x: Any, index: jax.Array | int) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, False), x)


def _add_at(x: Any, one: Any, index: jax.Array) -> Any:
    sums = jax.tree.map(jnp.add, _at(x, index), one)
    return jax.tree.map(
        lambda leaf, sum_: jax.lax.dynamic_update_index_in_dim(leaf, sum_, index, 0), x, sums
    )


def _zeros(x: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, x)
