"""How rows and arrays lie before, within and after the stages of a pipeline.

B rows, S stages, G groups of S microbatches, b rows of a microbatch.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.parallel.axes import WEIGHT_AXES
from jaxllm.parallel.layouts import Layout, MeshAxis


class StageLayout(Layout):
    """The layout of one stage's microbatch: nothing is cut over the axes of `manual_axes`."""

    def sharding(self, axes: Sequence[str | None] = ()) -> NamedSharding:
        """As `Layout.sharding`, on the mesh as it is inside of a stage, and valid only there."""
        return NamedSharding(jax.sharding.get_abstract_mesh(), self.partition(axes))


def inside(layout: Layout) -> StageLayout:
    """The layout within a stage."""
    manual = manual_axes(layout)
    rules = tuple(
        (axis, tuple(mesh_axis for mesh_axis in row if mesh_axis not in manual))
        for axis, row in layout.rules
    )
    return StageLayout(layout.name, layout.mesh, rules, layout.context_attention)


def outside(layout: Layout) -> Layout:
    """The layout before and after the pipeline, where the stages share the rows among them.

    Without that every stage would compute, and keep, all logits.
    """
    rules = dict(layout.rules)
    if layout.pipeline is None or "stage" in rules["batch"]:
        return layout
    rules["batch"] = (*rules["batch"], "stage")
    return replace(layout, rules=tuple(sorted(rules.items())))


def manual_axes(layout: Layout) -> tuple[MeshAxis, ...]:
    """The mesh axes that the pipeline itself cuts over: `stage`, and those of rows alone.

    Weights are whole along the latter. Left to the compiler, it would sum their gradients over
    the devices of such an axis after each layer of each microbatch, instead of once at the end.
    """
    cut = {axis for name, row in layout.rules if name in WEIGHT_AXES for axis in row}
    return ("stage", *(axis for axis in row_axes(layout) if axis not in cut))


def row_axes(layout: Layout) -> tuple[MeshAxis, ...]:
    """The mesh axes that the rows of one microbatch are cut over."""
    return tuple(axis for axis in layout.mesh_axes("batch") if axis != "stage")


def num_row_pieces(layout: Layout) -> int:
    """Pieces that the rows of one microbatch are cut in."""
    return math.prod(layout.axis_size(axis) for axis in row_axes(layout))


def split_rows(x: jax.Array, num_groups: int, layout: Layout, *, is_cut: bool) -> jax.Array:
    """(B, ...) -> (G, S, b, ...): microbatch g S + s lies on stage s. No row changes its device.

    is_cut: or else every stage has all microbatches.
    """
    before, after = _pieces_around_stage(layout)
    x = x.reshape(before, layout.axis_size("stage"), after, num_groups, -1, *x.shape[1:])
    x = jnp.moveaxis(x, (3, 1), (0, 1))
    x_GSb = x.reshape(*x.shape[:2], -1, *x.shape[5:])
    return _constrained(x_GSb, layout, None, ("stage",) if is_cut else None, row_axes(layout))


def join_rows(x_GSb: jax.Array, layout: Layout) -> jax.Array:
    """The inverse of `split_rows`."""
    before, after = _pieces_around_stage(layout)
    x = _constrained(x_GSb, layout, None, ("stage",), row_axes(layout))
    x = x.reshape(*x.shape[:2], before, after, -1, *x.shape[3:])
    x = jnp.moveaxis(x, (0, 1), (3, 1))
    x_B = x.reshape(-1, *x.shape[5:])
    return _constrained(x_B, layout, outside(layout).mesh_axes("batch"))


def _pieces_around_stage(layout: Layout) -> tuple[int, int]:
    """Pieces that the rows are cut in by the mesh axes before `stage`, and after it."""
    axes = outside(layout).mesh_axes("batch")
    sizes = [layout.axis_size(axis) for axis in axes]
    place = axes.index("stage")
    return math.prod(sizes[:place]), math.prod(sizes[place + 1 :])


def _constrained(x: jax.Array, layout: Layout, *leading: tuple[MeshAxis, ...] | None) -> jax.Array:
    """`x` with its leading dimensions cut over these mesh axes; the others lie as they do."""
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - len(leading))
    spec = PartitionSpec(*(axes or None for axes in leading), *free)
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, spec))
