"""THE TABLE: on which mesh axes each logical axis lives, one block of rows a layout.

A logical axis that a layout does not name is replicated. The resolved table (`Layout`) is
hashable and passed explicitly, because jit's cache would not notice a change of ambient state.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.hardware import Chip, find_chip
from jaxllm.parallel.axes import ACTIVATION_AXES, WEIGHT_AXES, WeightSpec

# Outermost first: neighbours along the last axis are neighbours on the chips' network.
#   slice    pods' slices, joined by the data-centre network; each computes its own rows
#   stage    consecutive blocks, a pipeline         data     rows
#   fsdp     rows, and the weights cut along with them
#   expert   rows, and the experts of a mixture     context  positions of long rows
#   tensor   heads, hidden units and vocabulary
MeshAxis = Literal["slice", "stage", "data", "fsdp", "expert", "context", "tensor"]
MESH_AXES: tuple[MeshAxis, ...] = get_args(MeshAxis)

LayoutName = Literal["replicated", "data", "zero1", "fsdp"]
ContextAttention = Literal["all_gather", "ring", "ulysses"]
Rows = Mapping[str, tuple[MeshAxis, ...]]

# What every layout but the plain ones does with the activations and the inner dimensions of
# weights; each mesh axis of size 1 drops out, so any product of degrees is a row of this table.
_INNER: Rows = {
    "batch": ("slice", "data", "fsdp", "expert"),
    # Positions between blocks are cut over `tensor` too, where norms and residual sums would
    # otherwise be computed, and kept, by every device of the axis (arXiv:2205.05198).
    "residual_length": ("context", "tensor"),
    "length": ("context",),
    "layers": ("stage",),
    # Heads, hidden units and vocabulary (arXiv:1909.08053).
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    "act_heads": ("tensor",),
    "act_kv_heads": ("tensor",),
    "act_mlp": ("tensor",),
    "act_vocab": ("tensor",),
    "experts": ("expert",),
}
# Along the residual stream a weight is cut over every axis that otherwise cuts only activations.
_CUT: Rows = {
    "embed": ("fsdp", "expert", "context"),
    "latent_input": ("fsdp", "expert", "context"),
    "expert_embed": ("fsdp", "context"),
}

LAYOUTS: dict[LayoutName, Rows] = {
    # Every device holds and computes everything: the reference the others are compared with.
    "replicated": {},
    # Weights everywhere, each device its own rows of the batch.
    "data": {
        "batch": ("slice", "data"),
    },
    # Weights whole along the residual stream, their optimizer state cut (ZeRO-1,
    # arXiv:1910.02054): one gather of the updated weights a step.
    "zero1": _INNER,
    # Weights and optimizer state cut along the residual stream, gathered layer by layer (ZeRO-3).
    "fsdp": {**_INNER, **_CUT},
}

# Where optimizer state lies, if not where its weight does.
OPTIMIZER_ROWS: dict[LayoutName, Rows] = {"zero1": _CUT}

# The mesh axis that takes the devices left over when the config does not say.
FILL_AXIS: dict[LayoutName, MeshAxis] = {
    "replicated": "data",
    "data": "data",
    "zero1": "fsdp",
    "fsdp": "fsdp",
}


@dataclass(frozen=True)
class Pipeline:
    """How a batch passes through the stages.

    num_microbatches: parts that the rows are cut in. num_rounds: times each part passes around
    the stages; more rounds shorten the bubble and need more transfers.
    """

    num_microbatches: int
    num_rounds: int


@dataclass(frozen=True)
class Layout:
    """A layout resolved on a mesh: maps logical axes to shardings.

    rules: the table's rows. context_attention: how attention crosses the mesh axis `context`.
    pipeline: None unless the mesh has several stages. is_optimizer_offloaded: optimizer state lies
    in host memory between steps.
    """

    name: LayoutName
    mesh: Mesh
    rules: tuple[tuple[str, tuple[MeshAxis, ...]], ...]
    context_attention: ContextAttention = "all_gather"
    pipeline: Pipeline | None = None
    is_optimizer_offloaded: bool = False

    @property
    def platform(self) -> str:
        """Where the program will run (cpu, gpu, tpu), which need not be where it is compiled."""
        return self.mesh.devices.flat[0].platform

    @property
    def chip(self) -> Chip | None:
        """The kind of chip in the mesh; None for one without a known peak (a CPU)."""
        return find_chip(self.mesh.devices.flat[0].device_kind)

    @property
    def is_zigzag(self) -> bool:
        """Whether positions are dealt out so that every shard has equal causal work."""
        return self.axis_size("context") > 1 and self.context_attention != "ulysses"

    def axis_size(self, mesh_axis: MeshAxis) -> int:
        """Devices along a mesh axis."""
        return self.mesh.shape.get(mesh_axis, 1)

    def mesh_axes(self, axis: str | None) -> tuple[MeshAxis, ...]:
        """The mesh axes, of more than one device, that a logical axis is cut over."""
        if axis is None:
            return ()
        assert axis in WEIGHT_AXES or axis in ACTIVATION_AXES, f"unknown logical axis {axis!r}"
        row = dict(self.rules).get(axis, ())
        return tuple(mesh_axis for mesh_axis in row if self.axis_size(mesh_axis) > 1)

    def for_optimizer(self) -> "Layout":
        """The layout of optimizer state and of the gradients it is updated from."""
        rows = dict(self.rules) | dict(OPTIMIZER_ROWS.get(self.name, {}))
        return replace(self, rules=tuple(sorted(rows.items())))

    def for_decoding(self) -> "Layout":
        """The layout in which all devices compute one layer after the other.

        Stages of a pipeline have a part of every layer then, instead of all of some: a loop over
        layers that are cut over devices would gather them all.
        """
        rows = dict(self.rules) | {"layers": ()}
        for axis in ("embed", "latent_input", "expert_embed"):
            rows[axis] = (*rows.get(axis, ()), "stage")
        return replace(self, rules=tuple(sorted(rows.items())), pipeline=None)

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


def resolve(
    name: LayoutName,
    mesh: Mesh,
    *,
    context_attention: ContextAttention = "all_gather",
    pipeline: Pipeline | None = None,
    is_optimizer_offloaded: bool = False,
) -> Layout:
    """The layout `name` on `mesh`; ValueError if the mesh has a wide axis the layout ignores."""
    rows = LAYOUTS[name]
    used = {mesh_axis for entry in rows.values() for mesh_axis in entry} | {FILL_AXIS[name]}
    for mesh_axis, size in mesh.shape.items():
        if size > 1 and mesh_axis not in used:
            raise ValueError(
                f"parallel.{mesh_axis} is {size}, but the layout {name!r} puts nothing on the mesh "
                f"axis {mesh_axis!r}; set parallel.{mesh_axis}=1 or choose another parallel.layout"
            )
    return Layout(
        name,
        mesh,
        tuple(sorted(rows.items())),
        context_attention,
        pipeline,
        is_optimizer_offloaded,
    )


def check_weights(layout: Layout, specs: Any) -> None:
    """Raise one ValueError that lists every weight dimension the mesh does not divide."""
    problems = []
    for path, spec in weight_items(specs):
        for dim, axis in enumerate(spec.axes):
            pieces = layout.degree(axis)
            size = spec.shape[dim]
            if size % pieces:
                fitting = [n for n in range(1, layout.mesh.size + 1) if size % n == 0]
                problems.append(
                    f"  {path}: {axis} of size {size} cannot be cut in {pieces} "
                    f"({_keys(layout, axis)}), but in {', '.join(map(str, fitting))}"
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
        raise ValueError(
            f"{key}: {rows} rows do not divide over the {pieces} devices of "
            f"{_keys(layout, 'batch')}; make it a multiple of {pieces} or change the degrees"
        )


def check_length(layout: Layout, length: int, *, key: str) -> None:
    """Raise ValueError, naming the config key, unless the mesh divides `length` positions."""
    pieces = layout.degree("residual_length")
    # Dealt out in zigzag, every shard of the context holds two stretches of a row.
    stretches = layout.axis_size("context") * (2 if layout.is_zigzag else 1)
    for parts in (pieces, stretches):
        if length % parts:
            raise ValueError(
                f"{key}: {length} positions do not divide in {parts} parts for "
                f"{_keys(layout, 'residual_length')}; make it a multiple of {parts} or change the "
                "degrees"
            )


def _keys(layout: Layout, axis: str) -> str:
    return " x ".join(f"parallel.{mesh_axis}" for mesh_axis in layout.mesh_axes(axis))


def weight_items(specs: Any) -> Iterator[tuple[str, WeightSpec]]:
    """(dotted path, spec) of every weight in a nested dict of specs."""
    for path, spec in jax.tree.flatten_with_path(specs)[0]:
        yield ".".join(str(key.key) for key in path), spec


def weight_shardings(layout: Layout, specs: Any) -> Any:
    """The shardings of a nested dict of WeightSpecs, with the same structure."""
    return jax.tree.map(lambda spec: layout.sharding(spec.axes), specs)
