from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from jaxllm.aot.cost import (
    EXPECTED,
    OPTIMIST,
    PESSIMIST,
    Work,
    attention_flops,
    hbm_bytes,
    matmul_flops,
    seconds,
    work_of,
)
from jaxllm.aot.hlo import parse_hlo
from jaxllm.hardware import TPUS, find_chip
from jaxllm.kernels.attention_splash import VISITS
from tests.aot.programs import EXCHANGES
from tests.tiny import fast

V5E = {"chip": find_chip("TPU v5e"), "tpu": TPUS["v5e"]}


def entry(lines, *, before=""):
    """A module whose entry holds these instructions."""
    return parse_hlo(f"{before}\nENTRY %main (a: f32[1]) -> f32[1] {{\n{lines}\n}}\n")


def product(text):
    module = entry(text)
    return matmul_flops(module.entry, module.entry.root)


def test_flops_of_a_dot_that_a_compiler_wrote():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((5, 7, 3), (5, 3, 11))]
    text = fast(jnp.matmul).lower(*shapes).compile().as_text()
    module = parse_hlo(text)
    (found,) = (
        matmul_flops(within, each)
        for within in module.computations.values()
        for each in within.instructions.values()
        if each.opcode == "dot"
    )
    assert found == 2 * 5 * 7 * 3 * 11


def test_flops_of_a_matmul_as_the_tpu_writes_it():
    lines = """  %x = bf16[8,16]{1,0} parameter(0)
  %w = bf16[16,32]{1,0} parameter(1)
  ROOT %c = bf16[8,32]{1,0} convolution(%x, %w), dim_labels=bf_io->bf"""
    assert product(lines) == 2 * 8 * 16 * 32


def test_products_with_padding_do_not_count():
    """Two heads as a window of two positions of which each output meets one."""
    lines = """  %x = bf16[4,64,16,1]{3,2,1,0} parameter(0)
  %w = bf16[2,128,16,1]{3,2,1,0} parameter(1)
  ROOT %c = bf16[4,64,2,128]{3,2,1,0} convolution(%x, %w), \
window={size=1x2 pad=0_0x1_1 rhs_reversal=0x1}, dim_labels=0bf1_1oi0->0b1f"""
    assert product(lines) == 2 * 4 * 64 * 2 * 128 * 16


@pytest.mark.parametrize("assumed", [OPTIMIST, EXPECTED, PESSIMIST])
@pytest.mark.parametrize("kind", ["vector", "pallas", "matmul"])
def test_twice_the_work_takes_twice_the_time(kind, assumed):
    work = Work(kind, flops=1e12, hbm_bytes=10**9, cycles=None)
    double = replace(work, flops=2e12, hbm_bytes=2 * 10**9)
    assert seconds(double, assumed=assumed, **V5E) == pytest.approx(
        2 * seconds(work, assumed=assumed, **V5E)
    )


def test_cycles_decide_over_matmuls_and_bytes_over_the_rest():
    cycles = 1_500_000  # a millisecond of a v5e
    work = Work("matmul", flops=1e15, hbm_bytes=10**12, cycles=cycles)
    assert seconds(work, assumed=EXPECTED, **V5E) == pytest.approx(1e-3)
    moved = Work("vector", 0.0, hbm_bytes=int(819e9 * 0.85 * 1e-3), cycles=cycles)
    # Both to the byte that the count of bytes is rounded to.
    assert seconds(moved, assumed=EXPECTED, **V5E) == pytest.approx(1e-3)
    in_vmem = replace(moved, hbm_bytes=0)
    assert seconds(in_vmem, assumed=EXPECTED, **V5E) == pytest.approx(0.4e-3)


@pytest.mark.parametrize("kind", ["vector", "pallas"])
def test_the_expectation_lies_between_optimist_and_pessimist(kind):
    work = Work(kind, flops=1e12, hbm_bytes=10**9, cycles=10**6)
    low, middle, high = (
        seconds(work, assumed=assumed, **V5E) for assumed in (OPTIMIST, EXPECTED, PESSIMIST)
    )
    assert low < middle < high


FUSED = """%inner (big: f32[8,1024], index: s32[], row: f32[1,1024]) -> f32[1,1024] {
  %big = f32[8,1024]{1,0} parameter(0)
  %index = s32[] parameter(1)
  %row = f32[1,1024]{1,0} parameter(2)
  %zero = s32[] constant(0)
  BODY
}
"""
FUSED_ENTRY = """  %big.1 = f32[8,1024]{1,0} parameter(0)
  %index.1 = s32[]{:S(6)} parameter(1)
  %row.1 = f32[1,1024]{1,0} parameter(2)
  ROOT %f = RESULT fusion(%big.1, %index.1, %row.1), kind=kLoop, calls=%inner"""


def fused_bytes(body, result):
    module = entry(FUSED_ENTRY.replace("RESULT", result), before=FUSED.replace("BODY", body))
    return hbm_bytes(module, module.entry, module.entry.root)


def test_a_slice_reads_its_part_only():
    body = """%part = f32[1,1024]{1,0} dynamic-slice(%big, %index, %zero)
  ROOT %sum = f32[1,1024]{1,0} add(%part, %row)"""
    assert fused_bytes(body, "f32[1,1024]{1,0}") == 3 * 4096


def test_an_update_in_place_writes_its_part_only():
    body = "ROOT %u = f32[8,1024]{1,0} dynamic-update-slice(%big, %row, %index, %zero)"
    assert fused_bytes(body, "f32[8,1024]{1,0}") == 2 * 4096


def test_values_outside_of_hbm_cost_no_bandwidth():
    body = "ROOT %sum = f32[8,1024]{1,0} add(%big, %big)"
    assert fused_bytes(body, "f32[8,1024]{1,0}") == 2 * 8 * 4096
    assert fused_bytes(body, "f32[8,1024]{1,0:T(8,128)S(1)}") == 8 * 4096


def test_a_kernel_costs_what_its_author_states():
    module = parse_hlo(EXCHANGES)
    work = work_of(module, module.entry, module.entry.root)
    assert work == Work("pallas", 1_970_000_000, 1024, None)
    # 1.97e9 FLOPs at half of 197e12 FLOP/s.
    assert seconds(work, assumed=EXPECTED, **V5E) == pytest.approx(2e-5)


def splash(name, *, scope="attention", out="bf16[2,4,1024,64]"):
    lines = f"""  %mask = s8[1,8,8] parameter(0)
  %q = bf16[2,4,1024,64] parameter(1)
  %k = bf16[2,4,1024,64] parameter(2)
  ROOT %{name} = {out} custom-call(%mask, %q, %k), custom_call_target="tpu_custom_call", \
metadata={{op_name="jit(f)/transpose(jvp({scope}))/vmap()/splash"}}"""
    module = entry(lines)
    return attention_flops(module.entry, module.entry.root)


def test_attention_kernels_by_their_shapes_and_what_they_visit():
    one_product = 2.0 * 2 * 4 * 1024 * 1024 * 64
    scope = VISITS.format(100, 200, 300)
    assert splash("splash_mha_fwd.1") == pytest.approx(2 * one_product / 2)
    assert splash("splash_mha_fwd.1", scope=scope) == pytest.approx(2 * one_product * 0.1)
    assert splash("splash_mha_dq.1", scope=scope) == pytest.approx(3 * one_product * 0.2)
    assert splash("splash_mha_dkv.1", scope=scope) == pytest.approx(4 * one_product * 0.3)
    fused = splash("splash_mha_dkv.1", scope=scope, out="bf16[2,8,4,1024,64]")
    assert fused == pytest.approx(5 * one_product * 0.3)
    assert splash("another_kernel.1") == 0
