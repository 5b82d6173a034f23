import jax
import pytest
from jax.sharding import AxisType
from pydantic import ValidationError

from jaxllm.parallel.layouts import FILL_AXIS, LAYOUTS
from jaxllm.parallel.mesh import ParallelConfig, num_slices


@pytest.mark.parametrize(
    ("settings", "num_devices", "sizes"),
    [
        ({}, 8, (1, 8, 1)),
        ({}, 1, (1, 1, 1)),
        ({"data": 2}, 8, (2, 4, 1)),
        ({"layout": "data"}, 8, (8, 1, 1)),
        ({"layout": "replicated"}, 8, (8, 1, 1)),
        ({"layout": "fsdp", "tensor": 4}, 8, (1, 2, 4)),
        ({"layout": "fsdp", "tensor": 2, "data": 2}, 16, (2, 4, 2)),
        ({"layout": "fsdp", "data": 4, "fsdp": 2}, 8, (4, 2, 1)),
    ],
)
def test_sizes(settings, num_devices, sizes):
    found = ParallelConfig(**settings).sizes(num_devices)
    assert {axis: found.pop(axis) for axis in ("data", "fsdp", "tensor")} == dict(
        zip(("data", "fsdp", "tensor"), sizes, strict=True)
    )
    assert set(found.values()) == {1}


@pytest.mark.parametrize(
    ("settings", "num_devices", "message"),
    [
        (
            {"fsdp": 4},
            8,
            r"4 is 4 devices, but there are 8; leave parallel\.fsdp out .*, or change",
        ),
        ({"layout": "data", "data": 3}, 8, r"but there are 8; leave parallel\.data out"),
        ({"data": 3}, 8, r"parallel\.data=3 .* is 6 devices, but there are 8"),
        (
            {"layout": "fsdp", "tensor": 16},
            8,
            r"is 16 devices, but there are 8; change the degrees$",
        ),
    ],
)
def test_sizes_whose_product_is_wrong(settings, num_devices, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**settings).sizes(num_devices)


def test_the_mesh_holds_each_device_once():
    mesh = ParallelConfig(layout="fsdp", tensor=2, data=2).build().mesh
    assert {axis: size for axis, size in mesh.shape.items() if size > 1} == {
        "data": 2,
        "fsdp": 2,
        "tensor": 2,
    }
    assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
    assert mesh.axis_types == (AxisType.Auto,) * 7


def test_a_part_of_the_devices():
    layout = ParallelConfig().build(jax.devices()[2:6])
    assert {device.id for device in layout.mesh.devices.flat} == {2, 3, 4, 5}


def test_every_layout_says_which_axis_it_fills():
    assert FILL_AXIS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("settings", [{"layout": "ddp"}, {"tensor": 0}, {"fsdp": -1}])
def test_values_out_of_range(settings):
    with pytest.raises(ValidationError):
        ParallelConfig(**settings)


class Chip:
    """A device of a slice, as far as the mesh looks."""

    def __init__(self, slice_index):
        self.slice_index = slice_index


def test_slices_are_those_of_the_devices():
    devices = [Chip(index // 4) for index in range(8)]
    assert num_slices(devices) == 2
    assert num_slices(jax.devices()) == 1
    assert ParallelConfig().sizes(8, num_slices=2)["slice"] == 2
    assert ParallelConfig().sizes(8, num_slices=2)["fsdp"] == 4
    with pytest.raises(ValueError, match=r"parallel\.slice=4, but the devices are 2 slices"):
        ParallelConfig(slice=4).sizes(8, num_slices=2)


def test_slices_may_be_imagined_where_devices_know_of_none():
    assert ParallelConfig(slice=2).build().mesh.shape["slice"] == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pipeline_microbatches": 4}, "pipeline_microbatches=4 needs a pipeline; set stage"),
        ({"pipeline_rounds": 2}, "pipeline_rounds=2 needs a pipeline; set stage"),
        ({"context_attention": "ring"}, "context_attention=ring needs context above 1"),
    ],
)
def test_options_without_their_axis_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        ParallelConfig(**settings)
