import re
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import pytest

from jaxllm.aot.search_space import abstract_layout
from jaxllm.notebook.sharding import draw_array, draw_mesh
from jaxllm.parallel.mesh import ParallelConfig

SVG = "{http://www.w3.org/2000/svg}"
AXES = ("embed", "mlp")


def layout(**keys):
    return ParallelConfig(**keys).build()


def tiles(drawing):
    """What each tile's title says, with its place and size."""
    tree = ElementTree.fromstring(drawing.svg)
    return {
        tile.find(f"{SVG}title").text: tuple(
            float(tile.get(key)) for key in ("x", "y", "width", "height")
        )
        for tile in tree.iter(f"{SVG}rect")
        if "tile" in tile.get("class")
    }


def test_a_mesh_has_every_device_once_in_its_rows_and_columns():
    found = tiles(draw_mesh(layout(tensor=2)))
    assert set(found) == {f"device {number}" for number in range(8)}
    places = {name: place[:2] for name, place in found.items()}
    assert places["device 0"][1] == places["device 1"][1]  # neighbours along tensor, the last axis
    assert places["device 0"][0] == places["device 2"][0]  # along fsdp
    assert len(set(places.values())) == 8


def test_a_mesh_of_three_axes_is_drawn_in_planes_and_one_of_four_is_refused():
    assert len(tiles(draw_mesh(layout(data=2, tensor=2)))) == 8
    sixteen = abstract_layout(ParallelConfig(data=2, fsdp=2, context=2, tensor=2))
    with pytest.raises(ValueError, match="three can be drawn"):
        draw_mesh(sixteen)


def test_pieces_are_those_that_jax_puts_on_the_devices():
    shape = (64, 48)
    for keys in ({"layout": "data"}, {}, {"tensor": 2}, {"tensor": 8}):
        chosen = layout(**keys)
        array = jax.device_put(jnp.zeros(shape), chosen.sharding(AXES))
        numbers = {device: index for index, device in enumerate(chosen.mesh.devices.flat)}
        text = draw_array(shape, AXES, chosen).text
        for shard in array.addressable_shards:
            place = ", ".join(
                ":" if part in (slice(None), slice(0, size, None)) else f"{part.start}:{part.stop}"
                for part, size in zip(shard.index, shape, strict=True)
            )
            number = numbers[shard.device]
            (who,) = re.findall(rf"(?:^|[ ;.])([\d \u2013]+) has \[{place}\]", text)
            first, _, last = who.strip().partition("\u2013")
            held = range(int(first), int(last) + 1) if last else map(int, who.split())
            assert number in held


def test_tiles_cover_the_array_in_proportion():
    found = tiles(draw_array((64, 128), AXES, layout(tensor=2)))
    assert len(found) == 8
    # 4 pieces down, 2 across, of a picture twice as wide as high.
    assert {size[2:] for size in found.values()} == {(100.0, 25.0)}


def test_a_replicated_array_is_one_tile_of_all():
    (name,) = tiles(draw_array((64, 128), AXES, layout(layout="data")))
    assert name == "device 0\u20137"


def test_of_a_stack_the_dimensions_that_are_cut_are_drawn():
    drawing = draw_array((4, 64, 128), ("layers", *AXES), layout(tensor=2))
    assert len(tiles(drawing)) == 8
    assert "4,096 of 32,768 numbers a device" in drawing.text


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="two dimensions or more"):
        draw_array((8,), ("embed",), layout())
    staged = layout(stage=2, fsdp=2, tensor=2)
    with pytest.raises(ValueError, match="are all cut"):
        draw_array((4, 64, 128), ("layers", *AXES), staged)
