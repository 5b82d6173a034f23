import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxllm.aot.collectives import collectives_in
from jaxllm.aot.hlo import parse_hlo
from jaxllm.aot.prediction import collective_lines
from jaxllm.aot.timeline import Exchange
from tests.aot.programs import EXCHANGES, TRANSFER, entry_instruction
from tests.tiny import fast

MESH = Mesh(np.array(jax.devices()).reshape(2, 4), ("fsdp", "tensor"))


def reduction(groups):
    """An all-reduce with these replica groups."""
    text = EXCHANGES.replace("{{0,1,2,3},{4,5,6,7},{8,9,10,11},{12,13,14,15}}", groups)
    (found,) = collectives_in(*entry_instruction(text, "reduced"))
    return found


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("{{0,2}}", ((0, 2),)),
        ("{}", ()),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
    ],
)
def test_every_way_to_write_groups(written, groups):
    assert reduction(written).groups == groups


def test_groups_in_a_way_nobody_knows():
    with pytest.raises(ValueError, match="cannot read the replica groups '<0,1>"):
        reduction("<0,1>")


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("[2,4]<=[8]", ("tensor",)),
        ("[4,2]<=[2,4]T(1,0)", ("fsdp",)),
        ("[1,8]<=[8]", ("fsdp", "tensor")),
        ("{{0,2},{1,3}}", ("tensor",)),
        ("[8,1]<=[8]", ()),
    ],
)
def test_the_mesh_axes_that_a_group_crosses(groups, axes):
    assert reduction(groups).axes(MESH) == axes


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_what_a_compiler_makes_of_each_collective(axis):
    def exchange(x):
        gathered = jax.lax.all_gather(x, axis, tiled=True)
        summed = jax.lax.psum(gathered, axis)
        scattered = jax.lax.psum_scatter(summed, axis, tiled=True)
        swapped = jax.lax.all_to_all(scattered, axis, 1, 0, tiled=True)
        ring = [(i, (i + 1) % MESH.shape[axis]) for i in range(MESH.shape[axis])]
        return jax.lax.ppermute(swapped, axis, ring)

    spec = PartitionSpec(("fsdp", "tensor"), None)
    step = jax.shard_map(exchange, mesh=MESH, in_specs=spec, out_specs=spec, check_vma=False)
    text = fast(step).lower(jax.ShapeDtypeStruct((64, 8), jnp.float32)).compile().as_text()
    module = parse_hlo(text)
    found = [
        collective
        for each in module.entry.instructions.values()
        for collective in collectives_in(module, each)
    ]
    local, size = 64 * 8 * 4 // 8, MESH.shape[axis]
    assert {each.kind: each.bytes for each in found} == {
        "all-gather": local * size,
        "all-reduce": local * size,
        "reduce-scatter": local * size,
        "all-to-all": local,
        "collective-permute": local,
    }
    assert {each.axes(MESH) for each in found} == {(axis,)}


def test_collectives_inside_fusions_are_found():
    (begun,) = collectives_in(*entry_instruction(EXCHANGES, "gather-start"))
    (ended,) = collectives_in(*entry_instruction(EXCHANGES, "gathered"))
    assert (begun.kind, begun.bytes) == ("all-gather", 512 * 512 * 2)
    assert ended.key == begun.key
    assert collectives_in(*entry_instruction(EXCHANGES, "m")) == []


def test_a_fusion_that_keeps_its_part_of_a_sum_is_a_reduce_scatter():
    text = EXCHANGES.replace("%begun", "%all-reduce-scatter.1").replace(
        "all-gather(%s)", "all-reduce(%s)"
    )
    (found,) = collectives_in(*entry_instruction(text, "gather-start"))
    assert found.kind == "reduce-scatter"


def test_exchanges_between_slices():
    (found,) = collectives_in(*entry_instruction(TRANSFER, "send"))
    assert (found.kind, found.bytes, found.axes(MESH)) == ("all-reduce", 2**21, ("slice",))
    assert collectives_in(*entry_instruction(TRANSFER, "recv")) == []


def test_lines_sum_what_is_alike():
    one = reduction("[2,4]<=[8]")
    other = reduction("[4,2]<=[2,4]T(1,0)")
    exchanges = [
        Exchange(one, False, count=2, seconds=1.0, exposed=0.5),
        Exchange(one, False, count=3, seconds=2.0, exposed=0.0),
        Exchange(one, True, count=1, seconds=0.1),
        Exchange(other, False, count=1, seconds=9.0, exposed=9.0),
    ]
    first, second, third = collective_lines(exchanges, MESH)
    assert (first.axes, first.count) == (("fsdp",), 1)
    assert (second.axes, second.count, second.bytes) == (("tensor",), 5, 5 * one.bytes)
    assert (second.seconds, second.exposed_seconds) == (3.0, 0.5)
    assert third.asynchronous
