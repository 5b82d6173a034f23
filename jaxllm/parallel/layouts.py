"""THE TABLE: on which mesh axes each logical axis lives, one block of rows a layout.

A logical axis that a layout does not name is replicated. The resolved table (`Layout`) is
hashable and passed explicitly, because jit's cache would not notice a change of ambient state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.parallel.axes import ACTIVATION_AXES, WEIGHT_AXES, WeightSpec

MeshAxis = Literal["data", "fsdp", "tensor"]
MESH_AXES: tuple[MeshAxis, ...] = get_args(MeshAxis)

LayoutName = Literal["replicated", "data", "fsdp", "fsdp_tensor"]
Rows = Mapping[str, tuple[MeshAxis, ...]]

LAYOUTS: dict[LayoutName, Rows] = {
    # Every device holds and computes everything: the reference the others are compared with.
    "replicated": {},
    # Weights everywhere, each device its own rows of the batch.
    "data": {
        "batch": ("data",),
    },
    # Weights and optimizer state cut along the residual stream, gathered layer by layer
    # (ZeRO-3, arXiv:1910.02054).
    "fsdp": {
        "batch": ("data", "fsdp"),
        "embed": ("fsdp",),
    },
    # In addition heads, hidden units and vocabulary cut over `tensor` (arXiv:1909.08053).
    "fsdp_tensor": {
        "batch": ("data", "fsdp"),
        "embed": ("fsdp",),
        "vocab": ("tensor",),
        "heads": ("tensor",),
        "kv_heads": ("tensor",),
        "mlp": ("tensor",),
        "act_heads": ("tensor",),
        "act_kv_heads": ("tensor",),
        "act_mlp": ("tensor",),
        "act_vocab": ("tensor",),
    },
}

# The mesh axis that takes the devices left over when the config does not say.
FILL_AXIS: dict[LayoutName, MeshAxis] = {
    "replicated": "data",
    "data": "data",
    "fsdp": "fsdp",
    "fsdp_tensor": "fsdp",
}


@dataclass(frozen=True)
class Layout:
    """A layout resolved on a mesh: maps logical axes to shardings."""

    name: LayoutName
    mesh: Mesh
    rules: tuple[tuple[str, tuple[MeshAxis, ...]], ...]

    def mesh_axes(self, axis: str | None) -> tuple[MeshAxis, ...]:
        """The mesh axes that a logical axis is cut over; () is replicated."""
        if axis is None:
            return ()
        assert axis in WEIGHT_AXES or axis in ACTIVATION_AXES, f"unknown logical axis {axis!r}"
        return dict(self.rules).get(axis, ())

    def partition(self, axes: Sequence[str | None]) -> PartitionSpec:
        """The PartitionSpec of an array with these logical axes."""
        entries = [self.mesh_axes(axis) for axis in axes]
        used = [mesh_axis for entry in entries for mesh_axis in entry]
        assert len(used) == len(set(used)), f"{tuple(axes)} uses a mesh axis twice: {used}"
        return PartitionSpec(*(entry or None for entry in entries))

    def sharding(self, axes: Sequence[str | None] = ()) -> NamedSharding:
        """The sharding of an array with these logical axes; () is a scalar or a replicated one."""
        return NamedSharding(self.mesh, self.partition(axes))

    def degree(self, axis: str) -> int:
        """Into how many pieces a logical axis is cut."""
        size = 1
        for mesh_axis in self.mesh_axes(axis):
            size *= self.mesh.shape[mesh_axis]
        return size


def constrain(layout: Layout | None, x: jax.Array, *axes: str | None) -> jax.Array:
    """`x`, told to the compiler to live where its logical axes say; unchanged without a layout."""
    assert x.ndim == len(axes), (x.shape, axes)
    if layout is None:
        return x
    return jax.lax.with_sharding_constraint(x, layout.sharding(axes))


def resolve(name: LayoutName, mesh: Mesh) -> Layout:
    """The layout `name` on `mesh`; ValueError if the mesh has a wide axis the layout ignores."""
    rows = LAYOUTS[name]
    used = {mesh_axis for entry in rows.values() for mesh_axis in entry} | {FILL_AXIS[name]}
    for mesh_axis, size in mesh.shape.items():
        if size > 1 and mesh_axis not in used:
            raise ValueError(
                f"parallel.{mesh_axis} is {size}, but the layout {name!r} puts nothing on the mesh "
                f"axis {mesh_axis!r}; set parallel.{mesh_axis}=1 or choose another parallel.layout"
            )
    return Layout(name, mesh, tuple(sorted(rows.items())))


def check_weights(layout: Layout, specs: Any) -> None:
    """Raise one ValueError that lists every weight dimension the mesh does not divide."""
    problems = []
    for path, spec in weight_items(specs):
        for dim, axis in enumerate(spec.axes):
            pieces = layout.degree(axis)
            if spec.shape[dim] % pieces:
                over = " x ".join(layout.mesh_axes(axis))
                problems.append(
                    f"  {path}: {axis} of size {spec.shape[dim]} cannot be cut in {pieces} "
                    f"(parallel.{over})"
                )
    if problems:
        raise ValueError(
            f"sizes that do not divide the mesh under layout {layout.name!r}:\n"
            + "\n".join(problems)
            + "\nchange the model's size, or the parallel.* degree named in brackets"
        )


def check_batch(layout: Layout, rows: int, *, key: str) -> None:
    """Raise ValueError, naming the config key, unless `rows` divide over the batch's devices."""
    pieces = layout.degree("batch")
    if rows % pieces:
        over = " x ".join(layout.mesh_axes("batch"))
        raise ValueError(
            f"{key}: {rows} rows do not divide over the {pieces} devices of the mesh "
            f"axes {over}; make it a multiple of {pieces} or change parallel.*"
        )


def weight_items(specs: Any) -> Iterator[tuple[str, WeightSpec]]:
    """(dotted path, spec) of every weight in a nested dict of specs."""
    for path, spec in jax.tree.flatten_with_path(specs)[0]:
        yield ".".join(str(key.key) for key in path), spec


def weight_shardings(layout: Layout, specs: Any) -> Any:
    """The shardings of a nested dict of WeightSpecs, with the same structure."""
    return jax.tree.map(lambda spec: layout.sharding(spec.axes), specs)
