"""What one scheduled instruction computes and moves, and how long that takes on a chip."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxllm.aot.collectives import OPCODES as COLLECTIVE_OPCODES
from jaxllm.aot.hlo import HBM, Array, Computation, Instruction, Module
from jaxllm.hardware import Chip, Tpu
from jaxllm.kernels.attention_splash import VISITS

Kind = Literal["matmul", "vector", "pallas"]

# Instructions that name, split or place values, and take no time of their own.
FREE = (
    *("parameter", "constant", "iota", "partition-id", "replica-id", "after-all", "domain"),
    *("tuple", "get-tuple-element", "bitcast", "add-dependency", "optimization-barrier"),
)
_MATMULS = ("convolution", "dot")
_SLICES = ("dynamic-slice", "slice", "gather")
_SAME_BYTES = ("bitcast", "reshape", "get-tuple-element")
_VISITS = re.compile(VISITS.format(*3 * [r"(\d+)"]))
# What a fusion passes on untouched, or what is counted as communication.
_PASSED_ON = ("tuple", "custom-call", *COLLECTIVE_OPCODES)


@dataclass(frozen=True)
class Work:
    """One instruction's work. flops: of matmuls and kernels. hbm_bytes: read and written.

    cycles: the compiler's estimate, None where it makes none.
    """

    kind: Kind
    flops: float
    hbm_bytes: int
    cycles: int | None


@dataclass(frozen=True)
class Assumptions:
    """How near to its peak a chip comes. Shares of 1, but `vector_cycles`.

    hbm, link, dcn, host: bandwidth reached. pallas: of the peak FLOP/s, inside kernels.
    matmul: of the peak, where the compiler gives no cycles. vector_cycles: the compiler's cycles of
    elementwise work are multiplied by it.
    """

    hbm: float = 0.85
    link: float = 0.9
    dcn: float = 0.8
    host: float = 0.8
    pallas: float = 0.5
    matmul: float = 0.85
    vector_cycles: float = 0.4


# The compiler's cycles of elementwise bf16 are about 2.5 times what such work takes, so that
# memory decides; the pessimist believes the cycles.
EXPECTED = Assumptions()
OPTIMIST = Assumptions(
    hbm=0.95, link=1.0, dcn=1.0, host=1.0, pallas=0.65, matmul=0.95, vector_cycles=0.3
)
PESSIMIST = Assumptions(
    hbm=0.7, link=0.75, dcn=0.5, host=0.5, pallas=0.35, matmul=0.7, vector_cycles=1.0
)


def seconds(work: Work, *, chip: Chip, tpu: Tpu, assumed: Assumptions) -> float:
    """The duration of one instruction's work."""
    memory = work.hbm_bytes / (tpu.hbm_bandwidth * assumed.hbm)
    cycles = None if work.cycles is None else work.cycles / tpu.clock_hz
    match work.kind:
        case "matmul" if cycles is not None:
            return cycles
        case "matmul":
            return max(memory, work.flops / (chip.peak_flops * assumed.matmul))
        case "pallas":
            return max(memory, work.flops / (chip.peak_flops * assumed.pallas))
    return max(memory, (cycles or 0.0) * assumed.vector_cycles)


def work_of(module: Module, within: Computation, instruction: Instruction) -> Work | None:
    """What an instruction does; None if it takes no time."""
    if instruction.opcode in FREE:
        return None
    if instruction.opcode == "custom-call":
        if instruction.target != "tpu_custom_call":
            return None
        stated = instruction.cost_estimate
        flops = stated[0] if stated else attention_flops(within, instruction)
        # A kernel may read an operand more than once; it states so or nobody knows.
        moved = stated[1] if stated else _whole_bytes(within, instruction)
        return Work("pallas", flops, moved, None)
    products = _matmuls(module, within, instruction)
    flops = sum(matmul_flops(inner, each) for inner, each in products)
    moved = hbm_bytes(module, within, instruction)
    return Work("matmul" if products else "vector", flops, moved, instruction.cycles)


def _matmuls(
    module: Module, within: Computation, instruction: Instruction
) -> list[tuple[Computation, Instruction]]:
    """The products inside an instruction, with the computation that each stands in."""
    if instruction.opcode in _MATMULS:
        return [(within, instruction)]
    if instruction.opcode != "fusion":
        return []
    return [
        found
        for computation in module.called(instruction)
        for each in computation.instructions.values()
        for found in _matmuls(module, computation, each)
    ]


def matmul_flops(within: Computation, product: Instruction) -> float:
    """2 x multiplications of a dot or a convolution, those with padding left out."""
    left, right = (types[0] for types in within.operand_arrays(product)[:2])
    out = product.outputs[0]
    if product.opcode == "dot":
        contracted = product.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
        inner = math.prod(left.shape[int(dim)] for dim in contracted.split(",") if dim)
        return 2.0 * out.size * inner
    labels = product.attribute(r"dim_labels=(\S+?->[^,\s]+)")
    assert labels is not None, product.attributes
    inputs, _, output = labels.replace("_", "->").split("->")
    kernel = labels.split("_")[1].split("->")[0]
    inner = right.shape[kernel.index("i")]
    positions = _window_products(product, left, out, inputs, output)
    plain = math.prod(out.shape[output.index(label)] for label in "bf")
    return 2.0 * plain * inner * positions


def _window_products(
    product: Instruction, left: Array, out: Array, inputs: str, output: str
) -> int:
    """Pairs of an output position and a position of the window that falls on an input."""
    window = product.attribute(r"window=\{([^}]*)\}") or ""
    fields = dict(field.split("=") for field in window.split())
    sizes = [int(size) for size in fields.get("size", "").split("x") if size]
    count = len(sizes)

    def read(key: str, default: str) -> list[str]:
        return (fields[key] if key in fields else "x".join([default] * count)).split("x")

    pairs = 1
    for dim in range(count):
        label, low = str(dim), int(read("pad", "0_0")[dim].split("_")[0])
        stride, spread = int(read("stride", "1")[dim]), int(read("lhs_dilate", "1")[dim])
        step = int(read("rhs_dilate", "1")[dim])
        at_out = np.arange(out.shape[output.index(label)])[:, None] * stride
        at_in = at_out + np.arange(sizes[dim])[None, :] * step - low
        end = (left.shape[inputs.index(label)] - 1) * spread
        pairs *= int(((at_in >= 0) & (at_in <= end) & (at_in % spread == 0)).sum())
    return pairs


def attention_flops(within: Computation, kernel: Instruction) -> float:
    """FLOPs of a splash attention kernel by its operands; 0 for a kernel of another name.

    Forward are 2 products of T x S x H a head, backward 3 for dq and 4 for dk and dv, 5 in one
    kernel; of the pairs of query and key those count that the kernel visits.
    """
    name = kernel.name
    if "splash" not in name:
        return 0.0
    shapes = [types[0].shape for types in within.operand_arrays(kernel) if types]
    wide = [shape for shape in shapes if len(shape) >= 3 and shape[-1] >= 64]
    if len(wide) < 2:
        return 0.0
    query, key = wide[0], wide[1]
    length, keys, head_dim = query[-2], key[-2], query[-1]
    products, number = 2, 0
    if "_dq" in name:
        products, number = 3, 1
    elif "_dkv" in name:
        is_fused = len(kernel.outputs[0].shape) > len(query)
        products, number = 5 if is_fused else 4, 2
    heads = math.prod(query[:-2])
    return products * 2.0 * heads * length * keys * head_dim * _visited(kernel, number)


def _visited(kernel: Instruction, number: int) -> float:
    """The share of all pairs of query and key that a kernel's scope states; the causal half."""
    found = _VISITS.search(kernel.op_name)
    return int(found[1 + number]) / 1000 if found else 0.5


def hbm_bytes(module: Module, within: Computation, instruction: Instruction) -> int:
    """Bytes read from and written to HBM: of a slice only its part, in place only what changes."""
    if instruction.opcode != "fusion":
        return _plain_bytes(within, instruction)
    inner = module.computations[instruction.called["calls"][0]]
    moved = 0
    operands = within.operand_arrays(instruction)
    for parameter, types in zip(inner.parameters, operands, strict=True):
        whole = sum(array.bytes for array in types if array.space == HBM)
        moved += min(whole, _read(inner, parameter)) if whole else 0
    results = [inner.root]
    if inner.root.opcode == "tuple":
        results = [inner.instructions[name] for name in inner.root.operands]
    for array, result in zip(instruction.outputs, results, strict=False):
        if array.space == HBM:
            moved += min(array.bytes, _written(inner, result))
    return moved


def _plain_bytes(within: Computation, instruction: Instruction) -> int:
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _hbm(within.operand_arrays(instruction)[1])
    if instruction.opcode in _SLICES:
        return 2 * _hbm(instruction.outputs)
    return _whole_bytes(within, instruction)


def _whole_bytes(within: Computation, instruction: Instruction) -> int:
    operands = (within.instructions[name] for name in dict.fromkeys(instruction.operands))
    return _hbm(instruction.outputs) + sum(_hbm(each.outputs) for each in operands)


def _hbm(types: tuple[Array, ...]) -> int:
    return sum(array.bytes for array in types if array.space == HBM)


def _read(inner: Computation, value: Instruction) -> int:
    """Bytes that the users of a value in a fusion need of it."""
    needed = 0
    for user in inner.users[value.name]:
        if user.opcode in _SAME_BYTES:
            needed += _read(inner, user)
        elif user.opcode in _SLICES and user.operands[0] == value.name:
            needed += sum(array.bytes for array in user.outputs)
        elif user.opcode in _PASSED_ON:
            continue
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != value.name:
            return sum(array.bytes for array in value.outputs)
    return needed


def _written(inner: Computation, result: Instruction) -> int:
    """Bytes that a result of a fusion writes; an update in place writes the update."""
    while result.opcode in _SAME_BYTES and result.operands:
        result = inner.instructions[result.operands[0]]
    if result.opcode == "dynamic-update-slice":
        update = inner.instructions[result.operands[1]]
        return sum(array.bytes for array in update.outputs)
    if result.opcode == "parameter" or result.opcode in _PASSED_ON:
        return 0
    return sum(array.bytes for array in result.outputs)
