"""Where a program's HBM goes, and the compiler's words when there is too little of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from jaxllm.aot.hlo import HBM, Computation, Instruction, Module
from jaxllm.nn.param import num_bytes

_OUT_OF_HBM = re.compile(
    r"(?:required for HLO temporaries \(|Used )([\d.]+)([KMGT]?)(?:i?B)?\)?"
    r" (?:exceeds available HBM \(|of )([\d.]+)([KMGT]?)"
)
_UNITS = {"": 2.0**-30, "K": 2.0**-20, "M": 2.0**-10, "G": 1.0, "T": 2.0**10}
_VALUE = re.compile(
    r"^ value: <\d+ ([^\s{]+)(\{[^}]*\})? @0> \(size=(\d+),offset=(\d+)\): (\S+)", re.MULTILINE
)
_KEPT_BUFFERS = 12
_STACKING = "jaxllm/nn/stack.py"  # where values are put for later rather than made
_PRODUCTS = ("jaxllm/nn/linear.py", "jaxllm/kernels/matmul.py")  # their callers say more


@dataclass(frozen=True)
class Buffer:
    """A stretch of HBM. source: the line of the program it comes from; '' where unknown."""

    bytes: int
    type: str
    source: str
    operation: str


@dataclass(frozen=True)
class MemoryParts:
    """What HBM holds at its fullest, in bytes on one device.

    activations: what the forward loop keeps for the backward loop. temporaries: all else that
    comes and goes within the step, gradients and the batch among it.
    """

    parameters: int
    optimizer: int
    activations: int
    temporaries: int


def local_bytes(tree: Any) -> int:
    """Bytes on one device of abstract arrays with shardings, without those in host memory."""
    return sum(
        num_bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
        for leaf in jax.tree.leaves(tree)
        if "host" not in (leaf.sharding.memory_kind or "")
    )


def memory_parts(
    module: Module | None, *, peak: int, parameters: int, optimizer: int
) -> MemoryParts:
    """The peak, divided. parameters, optimizer: bytes of the state on a device.

    Without a module, activations are among the temporaries.
    """
    rest = max(0, peak - parameters - optimizer)
    activations = 0 if module is None else min(rest, saved_bytes(module))
    return MemoryParts(parameters, optimizer, activations, rest - activations)


def saved_bytes(module: Module) -> int:
    """Bytes in HBM that one loop of the program makes and a later one beside it reads.

    Where a batch is computed in parts, these are the loops within the loop over the parts.
    """
    return max(_saved_bytes(module, within) for within in module.computations.values())


def _saved_bytes(module: Module, within: Computation) -> int:
    seen = {}
    for loop in within.instructions.values():
        if loop.opcode != "while":
            continue
        state = within.instructions[loop.operands[0]]
        for name in state.operands if state.opcode == "tuple" else ():
            array = within.instructions[name].outputs[0]
            made = _made_by_loop(module, within, within.instructions[name])
            if made is not None and array.space == HBM and made[0] != loop.name:
                seen[made] = array.bytes
    return sum(seen.values())


def _made_by_loop(
    module: Module, within: Computation, value: Instruction
) -> tuple[str, int] | None:
    """(loop, element) if a value is an element of a loop's result, be it moved.

    None for what the loop only passes on, such as weights.
    """
    value = _moved(within, value)
    if value.opcode != "get-tuple-element":
        return None
    loop, index = within.instructions[value.operands[0]], _index(value)
    if loop.opcode != "while":
        return None
    body = module.computations[loop.called["body"][0]]
    if body.root.opcode == "tuple":
        result = _moved(body, body.instructions[body.root.operands[index]])
        if result.opcode == "get-tuple-element" and _index(result) == index:
            return None
    return loop.name, index


def _moved(within: Computation, value: Instruction) -> Instruction:
    """The value that another is a copy of, or itself."""
    while value.opcode in ("copy", "bitcast", "copy-done", "copy-start") and value.operands:
        value = within.instructions[value.operands[0]]
    return value


def _index(element: Instruction) -> int:
    return int(element.attribute(r"\bindex=(\d+)") or 0)


def read_shortage(message: str) -> tuple[float, float] | None:
    """(GiB needed, GiB there are) in a compiler's refusal; None if it is of another kind."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = _OUT_OF_HBM.search(message)
    if found is None:
        return None
    return float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]


def largest_buffers(module: Module, assignment: str) -> tuple[Buffer, ...]:
    """The largest stretches of the heap of temporaries in HBM, those at one place only once.

    assignment: the compiler's buffer assignment. Several values share a place, one after the other
    or one inside the other; the first that names a line of source stands for it.
    """
    start = assignment.find("preallocated-temp")
    end = assignment.find("\nallocation ", start)
    places: dict[tuple[int, int], list[tuple[str, str]]] = {}
    for name, _, size, offset, kind in _VALUE.findall(assignment[start:end]):
        places.setdefault((int(size), int(offset)), []).append((name, kind))
    ordered = sorted(places.items(), key=lambda place: -place[0][0])
    taken: list[tuple[int, int]] = []
    buffers = []
    for (size, offset), values in ordered:
        if any(begin < offset + size and offset < until for begin, until in taken):
            continue
        taken.append((offset, offset + size))
        buffers.append(_buffer(module, size, values))
        if len(buffers) == _KEPT_BUFFERS:
            break
    return tuple(buffers)


def _buffer(module: Module, size: int, values: list[tuple[str, str]]) -> Buffer:
    """One place; of its values stands for it the one that names the most telling line."""
    names = {name for name, _ in values}
    found = [
        line
        for computation in module.computations.values()
        for name in names & computation.instructions.keys()
        for line in _lines(module, computation, computation.instructions[name])
    ]
    is_stacked = [line[0].startswith(_STACKING) for line in found]
    best = found[is_stacked.index(False)] if False in is_stacked else (found or [("", "")])[0]
    kind = min((kind for _, kind in values), key=len)
    return Buffer(size, kind.split("{")[0].lstrip("("), *best)


def _lines(module: Module, within: Computation, value: Instruction) -> Iterator[tuple[str, str]]:
    """(line of source, path of operations) of a value; of one put into a stack, of what is put."""
    makers = [value]
    if "dynamic_update_slice" in value.op_name:
        makers += [_maker(within, within.instructions[name]) for name in value.operands]
        makers.sort(key=lambda each: each is value)
    for maker in makers:
        own = [line[line.rfind("jaxllm/") :] for line in module.source(maker.frame)]
        own = [line for line in own if line.startswith("jaxllm/")]
        if own:
            telling = [line for line in own if not line.startswith(_PRODUCTS)]
            yield (telling or own)[0], maker.op_name


def _maker(within: Computation, value: Instruction) -> Instruction:
    """The instruction that computes a value which others only pass on."""
    while value.opcode in ("get-tuple-element", "bitcast", "copy-done", "copy-start"):
        value = within.instructions[value.operands[0]]
    return value
