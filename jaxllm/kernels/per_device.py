"""Functions that see one device's part of each array, which compiled-in kernels need."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxllm.parallel.layouts import Layout

Axes = Sequence[str | None]


def per_device(
    function: Callable,
    layout: Layout,
    *,
    in_axes: Sequence[Axes],
    out_axes: Axes | list[Any],
    along: Sequence[str] | None = None,
) -> Callable:
    """`function` of one device's parts as a function of whole arrays.

    in_axes: the logical axes of each argument; () is whole, and may stand for a tree of arrays or
    None. out_axes: those of the result, or a list of them for a tuple of results. along: logical
    axes, of which alone the function sees its part; the rest is left to the compiler, which a
    Pallas kernel does not allow. Default: all.

    Works within another such function too, as in the stage of a pipeline.
    """
    around = jax.sharding.get_abstract_mesh()
    manual = set(around.manual_axes)
    mesh_axes = set(layout.mesh.axis_names) - manual
    if along is not None:
        mesh_axes &= {mesh_axis for axis in along for mesh_axis in layout.mesh_axes(axis)}
        if not mesh_axes:
            return function
    out_specs: Any
    if isinstance(out_axes, list):
        out_specs = tuple(layout.partition(axes) for axes in out_axes)
    else:
        out_specs = layout.partition(out_axes)
    return jax.shard_map(
        function,
        mesh=around if manual else layout.mesh,
        in_specs=tuple(layout.partition(axes) for axes in in_axes),
        out_specs=out_specs,
        axis_names=mesh_axes,
        check_vma=False,  # a Pallas call does not say over which axes its results vary
    )
