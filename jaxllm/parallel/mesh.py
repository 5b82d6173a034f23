"""The mesh of devices, from the config."""

import math

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh
from pydantic import PositiveInt, model_validator

from jaxllm.parallel.layouts import (
    FILL_AXIS,
    MESH_AXES,
    ContextAttention,
    Layout,
    LayoutName,
    Pipeline,
    resolve,
)
from jaxllm.schema import Config


class ParallelConfig(Config):
    """How weights and batches are spread over the devices."""

    layout: LayoutName = "fsdp"
    """The block of rows in the layout table: replicated, data, zero1 or fsdp."""
    slice: PositiveInt | None = None
    """Slices joined by the data-centre network, each with rows of its own; null is all."""
    stage: PositiveInt = 1
    """Devices along the mesh axis `stage`, which cuts the blocks into a pipeline."""
    data: PositiveInt | None = None
    """Devices along the mesh axis `data`; null is 1, or the rest where the layout fills it."""
    fsdp: PositiveInt | None = None
    """Devices along the mesh axis `fsdp`; null is 1, or the rest where the layout fills it."""
    expert: PositiveInt = 1
    """Devices along the mesh axis `expert`, which cuts rows and the experts of a mixture."""
    context: PositiveInt = 1
    """Devices along the mesh axis `context`, which cuts the positions of a row."""
    tensor: PositiveInt = 1
    """Devices along the mesh axis `tensor`, which cuts heads, hidden units and vocabulary."""
    context_attention: ContextAttention = "all_gather"
    """How attention crosses `context`: all_gather (keys), ring, or ulysses (heads)."""
    pipeline_microbatches: PositiveInt | None = None
    """Parts that a batch passes through the stages in; null is 4 a stage."""
    pipeline_rounds: PositiveInt = 1
    """Times each part passes around the stages; more shorten the bubble and need more transfers."""

    offload_optimizer: bool = False
    """Whether optimizer state lies in host memory between steps; each step moves it twice."""

    @model_validator(mode="after")
    def _pipeline_is_used(self) -> "ParallelConfig":
        if self.stage == 1:
            for key in ("pipeline_microbatches", "pipeline_rounds"):
                if getattr(self, key) not in (None, 1):
                    raise ValueError(
                        f"{key}={getattr(self, key)} needs a pipeline; set stage above 1 or "
                        f"leave {key} out"
                    )
        if self.context == 1 and self.context_attention != "all_gather":
            raise ValueError(
                f"context_attention={self.context_attention} needs context above 1; set it or "
                "leave context_attention out"
            )
        return self

    def build(self, devices: list[jax.Device] | None = None) -> Layout:
        """The layout on a mesh of `devices` (default: all). ValueError if the sizes do not fit."""
        devices = jax.devices() if devices is None else devices
        pipeline = None
        if self.stage > 1:
            pipeline = Pipeline(self.pipeline_microbatches or 4 * self.stage, self.pipeline_rounds)
        return resolve(
            self.layout,
            make_mesh(self.sizes(len(devices), num_slices=num_slices(devices)), devices),
            context_attention=self.context_attention,
            pipeline=pipeline,
            is_optimizer_offloaded=self.offload_optimizer,
        )

    def sizes(self, num_devices: int, *, num_slices: int = 1) -> dict[str, int]:
        """Devices along each mesh axis; their product is `num_devices`."""
        given: dict[str, int | None] = {axis: getattr(self, axis) for axis in MESH_AXES}
        if given["slice"] is None:
            given["slice"] = num_slices
        if num_slices > 1 and given["slice"] != num_slices:
            raise ValueError(
                f"parallel.slice={given['slice']}, but the devices are {num_slices} slices; leave "
                "it out"
            )
        fill = FILL_AXIS[self.layout]
        sizes: dict[str, int] = {axis: given[axis] or 1 for axis in MESH_AXES}
        if given[fill] is None:
            sizes[fill] = max(1, num_devices // math.prod(sizes.values()))
        if math.prod(sizes.values()) != num_devices:
            advice = "" if given[fill] is None else f"leave parallel.{fill} out to fill it, or "
            shown = " x ".join(f"parallel.{axis}={n}" for axis, n in sizes.items() if n > 1)
            raise ValueError(
                f"{shown or 'one device'} is {math.prod(sizes.values())} devices, but there are "
                f"{num_devices}; {advice}change the degrees"
            )
        return sizes


def num_slices(devices: list[jax.Device]) -> int:
    """Slices that the devices lie in; 1 where devices know of none."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def make_mesh(sizes: dict[str, int], devices: list[jax.Device]) -> Mesh:
    """A mesh with these axes. Axis types are Auto: the constraints in the model say the rest.

    A mesh axis may be a part of a dimension of the chips' torus, as 2 of 4: there is no degree
    that a slice could not have.
    """
    within, across = (
        tuple(1 if (axis == "slice") == is_within else size for axis, size in sizes.items())
        for is_within in (True, False)
    )
    if num_slices(devices) == 1:
        grid = mesh_utils.create_device_mesh(
            tuple(sizes.values()), devices, allow_split_physical_axes=True
        )
    else:
        grid = mesh_utils.create_hybrid_device_mesh(
            within, across, devices, allow_split_physical_axes=True
        )
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
