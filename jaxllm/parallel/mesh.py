"""The mesh of devices, from the config."""

import math

import jax
from jax.sharding import AxisType, Mesh
from pydantic import PositiveInt

from jaxllm.parallel.layouts import FILL_AXIS, MESH_AXES, Layout, LayoutName, resolve
from jaxllm.schema import Config


class ParallelConfig(Config):
    """How weights and batches are spread over the devices."""

    layout: LayoutName = "fsdp"
    """The block of rows in the layout table: replicated, data, fsdp or fsdp_tensor."""
    data: PositiveInt | None = None
    """Devices along the mesh axis `data`; null is 1, or the rest where the layout fills it."""
    fsdp: PositiveInt | None = None
    """Devices along the mesh axis `fsdp`; null is 1, or the rest where the layout fills it."""
    tensor: PositiveInt = 1
    """Devices along the mesh axis `tensor`, which cuts heads, hidden units and vocabulary."""

    def build(self, devices: list[jax.Device] | None = None) -> Layout:
        """The layout on a mesh of `devices` (default: all). ValueError if the sizes do not fit."""
        devices = jax.devices() if devices is None else devices
        return resolve(self.layout, make_mesh(self.sizes(len(devices)), devices))

    def sizes(self, num_devices: int) -> dict[str, int]:
        """Devices along each mesh axis; their product is `num_devices`."""
        given: dict[str, int | None] = {
            "data": self.data,
            "fsdp": self.fsdp,
            "tensor": self.tensor,
        }
        fill = FILL_AXIS[self.layout]
        sizes: dict[str, int] = {axis: given[axis] or 1 for axis in MESH_AXES}
        if given[fill] is None:
            sizes[fill] = max(1, num_devices // math.prod(sizes.values()))
        if math.prod(sizes.values()) != num_devices:
            shown = " x ".join(f"parallel.{axis}={size}" for axis, size in sizes.items())
            raise ValueError(
                f"{shown} is {math.prod(sizes.values())} devices, but there are {num_devices}; "
                f"leave parallel.{fill} out to fill it, or change the degrees"
            )
        return sizes


def make_mesh(sizes: dict[str, int], devices: list[jax.Device]) -> Mesh:
    """A mesh with these axes. Axis types are Auto: the constraints in the model say the rest."""
    return jax.make_mesh(
        tuple(sizes.values()),
        tuple(sizes),
        axis_types=(AxisType.Auto,) * len(sizes),
        devices=devices,
    )
