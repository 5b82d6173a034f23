import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.aot.hlo import parse_hlo
from jaxllm.aot.memory import (
    largest_buffers,
    local_bytes,
    memory_parts,
    read_shortage,
    saved_bytes,
)
from tests.aot.programs import LOOPS

# The first loop writes a row a turn of what the second one reads.
FILLING = LOOPS.replace(
    "  ROOT %out = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) tuple(%next, %y, %all)",
    """  %row = f32[1,64]{1,0:T(8,128)} bitcast(%y)
  %filled = f32[4,64]{1,0:T(8,128)} dynamic-update-slice(%all, %row, %i, %i)
  ROOT %out = (s32[], f32[64]{0:T(128)S(1)}, f32[4,64]{1,0:T(8,128)}) tuple(%next, %y, %filled)""",
)
# The same within a loop over parts of a batch.
IN_PARTS = (
    FILLING.replace("ENTRY %main", "%part")
    + """
ENTRY %whole (b: f32[64]) -> f32[64] {
  %b = f32[64]{0:T(128)S(1)} parameter(0)
  ROOT %called = f32[64]{0:T(128)S(1)} call(%b), to_apply=%part
}
"""
)

SHORTAGE = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (23.75G) exceeds available HBM (15.75G). HLO module: jit_step."
)

# 1,024 bytes at 0 for two values one after the other, 1,024 at 2048, and two more that overlap.
ASSIGNMENT = """BufferAssignment:
allocation 0: size 256, page 0, parameter 0, shape |f32[64]| at ShapeIndex {}:
 value: <1 a @0> (size=256,offset=0): f32[64]{0}
allocation 1: size 4096, page 0, preallocated-temp:
 value: <2 nothing @0> (size=1024,offset=2048): f32[4,64]{1,0:T(8,128)}
 value: <3 y @0> (size=1024,offset=0): f32[4,64]{1,0:T(8,128)}
 value: <4 first{2} @0> (size=1024,offset=0): f32[4,64]{1,0:T(8,128)}
 value: <8 kept @0> (size=512,offset=1792): f32[128]{0}
 value: <5 zero @0> (size=64,offset=128): s32[]
 value: <6 vmem @1> (size=9999,offset=0): f32[9999]{0:S(1)}
allocation 2: size 60, color 2, page 0, preallocated-temp:
 value: <7 flag @2> (size=4,offset=0): u32[]{:S(2)}
"""


def test_a_refusal_for_want_of_memory():
    assert read_shortage(SHORTAGE) == (23.75, 15.75)
    text = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.50M of 0.25G hbm."
    assert read_shortage(text) == pytest.approx((512.5 / 1024, 0.25))


@pytest.mark.parametrize(
    "message",
    [
        "INVALID_ARGUMENT: No such compile option: 'xla_gone'",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem while allocating on stack",
    ],
)
def test_a_refusal_for_another_reason(message):
    assert read_shortage(message) is None


def test_what_the_first_loop_keeps_for_the_second():
    assert FILLING != LOOPS
    assert saved_bytes(parse_hlo(FILLING)) == 4 * 64 * 4  # not the 64 floats that lie in VMEM
    assert saved_bytes(parse_hlo(IN_PARTS)) == 4 * 64 * 4
    assert saved_bytes(parse_hlo(LOOPS)) == 0  # weights, say, that it only passes on
    alone = FILLING.replace("tuple(%begin, %b, %kept)", "tuple(%begin, %b, %nothing)")
    assert saved_bytes(parse_hlo(alone)) == 0


def test_the_parts_make_up_the_peak():
    parts = memory_parts(parse_hlo(FILLING), peak=10_000, parameters=1000, optimizer=2000)
    assert (parts.parameters, parts.optimizer, parts.activations) == (1000, 2000, 1024)
    assert parts.temporaries == 10_000 - 1000 - 2000 - 1024
    without = memory_parts(None, peak=10_000, parameters=1000, optimizer=2000)
    assert (without.activations, without.temporaries) == (0, 7000)


def test_the_largest_buffers_with_the_line_that_makes_them():
    first, second = largest_buffers(parse_hlo(LOOPS), ASSIGNMENT)
    assert {first.bytes, second.bytes} == {1024}
    made = first if first.source else second
    # The product is written in linear.py; who calls it says more.
    assert (made.source, made.operation, made.type) == (
        "jaxllm/nn/mlp.py:61",
        "step/mul",
        "f32[4,64]",
    )


def test_bytes_on_one_device():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    cut, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x", "y"), ()))
    tree = {
        "cut": jax.ShapeDtypeStruct((8, 8), jnp.bfloat16, sharding=cut),
        "whole": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=whole),
    }
    assert local_bytes(tree) == 8 * 8 * 2 // 8 + 3 * 4
