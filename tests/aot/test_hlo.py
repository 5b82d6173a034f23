import pytest

from jaxllm.aot.hlo import HBM, VMEM, Array, arrays, parse_hlo
from tests.aot.programs import EXCHANGES, LOOPS, entry_instruction


def test_types_with_layouts_tuples_and_memory_spaces():
    text = "(s32[]{:T(128)}, bf16[4,64]{1,0:T(8,128)(2,1)S(1)}, /*index=2*/pred[3], token[])"
    assert arrays(text) == (
        Array("s32", ()),
        Array("bf16", (4, 64), VMEM),
        Array("pred", (3,), HBM),
        Array("token", ()),
    )


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("f32", 32), ("bf16", 16), ("pred", 8), ("s4", 4), ("f8e4m3fn", 8), ("u32", 32), ("token", 0)],
)
def test_bytes_by_dtype(dtype, size):
    assert Array(dtype, (10, 2)).bytes == 20 * size // 8


def test_a_module_is_its_computations_in_order():
    module = parse_hlo(LOOPS)
    assert list(module.computations) == ["body", "condition", "main"]
    assert module.entry.name == "main"
    assert module.entry.root.name == "result"
    assert [each.name for each in module.computations["body"].parameters] == ["p"]
    assert [user.name for user in module.entry.users["a"]] == ["nothing", "start"]
    loop = module.entry.instructions["first"]
    assert loop.called == {"condition": ("condition",), "body": ("body",)}
    assert module.called(loop) == [module.computations["condition"], module.computations["body"]]


def test_what_an_attribute_says():
    _, matmul = entry_instruction(EXCHANGES, "m")
    assert (matmul.opcode, matmul.cycles, matmul.operands) == ("fusion", 3_000_000, ("v", "v"))
    _, kernel = entry_instruction(EXCHANGES, "flash")
    assert kernel.target == "tpu_custom_call"
    assert kernel.cost_estimate == (1_970_000_000, 1024)


@pytest.mark.parametrize(("written", "cycles"), [("17", 17), (str(2**63 - 1), None)])
def test_an_estimate_that_is_none(written, cycles):
    _, matmul = entry_instruction(EXCHANGES.replace('"3000000"', f'"{written}"'), "m")
    assert matmul.cycles == cycles


def test_attributes_over_several_lines_hide_no_instruction():
    module = parse_hlo(EXCHANGES)
    assert list(module.entry.instructions)[-1] == "flash"
    assert module.entry.root.outputs == (Array("bf16", (512, 512)),)


def test_the_lines_of_source_innermost_first():
    module = parse_hlo(LOOPS)
    made = module.computations["body"].instructions["y"]
    assert module.source(made.frame) == [
        "/somewhere/jaxllm/nn/linear.py:52",
        "/somewhere/jaxllm/nn/mlp.py:61",
    ]
    assert module.source(None) == []


def test_elements_of_tuples_as_a_dump_writes_them():
    text = LOOPS.replace("%i = s32[]{:T(128)} get-tuple-element(%p), index=0\n", "")
    module = parse_hlo(
        text.replace("copy(%i)", "copy(%p#0)").replace("multiply(%x, %x)", "abs(%p#2)")
    )
    body = module.computations["body"].instructions
    assert body["p#2"].opcode == "get-tuple-element"
    assert body["p#2"].operands == ("p",)
    assert body["p#2"].outputs == (Array("f32", (4, 64)),)


def test_elements_of_tuples_in_tuples():
    text = """ENTRY %main (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %c = ((f32[2]{0}, /*index=1*/bf16[4,2]{1,0:T(8,128)S(1)}), s32[]) conditional(%p, %p)
  ROOT %n = f32[2]{0} add(%c#0#1, %c#0#0)
}
"""
    found = parse_hlo(text).entry.instructions
    assert found["c#0#1"].outputs == (Array("bf16", (4, 2), 1),)
    assert found["c#0#1"].operands == ("c#0",)
    assert found["c#0"].outputs == (Array("f32", (2,)), Array("bf16", (4, 2), 1))


def test_a_text_without_a_program():
    with pytest.raises(ValueError, match="not HLO"):
        parse_hlo("RESOURCE_EXHAUSTED")
