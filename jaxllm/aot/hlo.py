"""A compiled program's text (scheduled HLO) as computations of instructions.

The grammar: github.com/openxla/xla/blob/main/docs/hlo_dumps.md. Only what is asked for is read:
an instruction keeps its attributes as text.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property

# Memory spaces of a TPU program, by the number in the layout's S(n).
HBM, VMEM, HOST = 0, 1, 5

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "opaque": 0}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\) -> .*\{$")
_END = re.compile(r'^\}(?:, execution_thread="([^"]*)")?$')
_INSTRUCTION = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>\S+) = "
    r"(?P<type>\(.*?\)|\S+) (?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$",
    re.DOTALL,
)
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{[^}]*?(?:S\((\d+)\))?\})?")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|called_computations|branch_computations"
    r"|true_computation|false_computation)=(\{[^}]*\}|%?[^\s,}]+)"
)
_COST = re.compile(r'"cost_estimate":\{"flops":"?(\d+)"?,[^}]*?"bytes_accessed":"?(\d+)"?')
_FRAME_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")


@dataclass(frozen=True)
class Array:
    """The type of one array. space: HBM, VMEM, HOST or another memory of the chip."""

    dtype: str
    shape: tuple[int, ...]
    space: int = HBM

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes without the padding of the layout."""
        return -(-self.size * _bits(self.dtype) // 8)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r"\d+", dtype)
    assert digits is not None, f"unknown dtype {dtype}"
    # Complex numbers are named by the bits of both parts, and f8e4m3 by those of the first number.
    return int(digits[0])


def arrays(text: str) -> tuple[Array, ...]:
    """Every array of a type, those of a tuple in order."""
    return tuple(
        Array(dtype, tuple(map(int, filter(None, shape.split(",")))), int(space or HBM))
        for dtype, shape, space in _ARRAY.findall(text)
    )


@dataclass(frozen=True)
class Instruction:
    """One operation. operands: names of instructions in the same computation."""

    name: str
    opcode: str
    type: str
    operand_text: str
    attributes: str
    is_root: bool

    @cached_property
    def outputs(self) -> tuple[Array, ...]:
        """The arrays it produces."""
        return arrays(self.type)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The names of its operands."""
        return tuple(re.findall(r"%([^\s,()]+)", self.operand_text))

    @cached_property
    def called(self) -> dict[str, tuple[str, ...]]:
        """Names of the computations it calls, by attribute (calls, body, to_apply, ...)."""
        return {
            key: tuple(name.strip().lstrip("%") for name in names.strip("{}").split(","))
            for key, names in _CALLED.findall(self.attributes)
        }

    @cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate of its duration, in cycles of the chip's clock; None without."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        # For work of other cores it writes the largest number there is.
        return int(found[1]) if found and int(found[1]) < 2**62 else None

    @cached_property
    def cost_estimate(self) -> tuple[int, int] | None:
        """(FLOPs, bytes) that the author of a kernel stated; None if there is no statement."""
        found = _COST.search(self.attributes)
        return (int(found[1]), int(found[2])) if found else None

    @property
    def target(self) -> str:
        """What a custom call calls; empty for other instructions."""
        return self._text("custom_call_target")

    @property
    def op_name(self) -> str:
        """The path of JAX operations that it comes from."""
        return self._text("op_name")

    @property
    def frame(self) -> int | None:
        """Where in the source it comes from: a row of the module's stack frames."""
        found = re.search(r"stack_frame_id=(\d+)", self.attributes)
        return int(found[1]) if found else None

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression in the attributes, or None."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None

    def _text(self, key: str) -> str:
        return self.attribute(rf'{key}="([^"]*)"') or ""


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run, by name."""

    name: str
    instructions: dict[str, Instruction]

    @cached_property
    def root(self) -> Instruction:
        """The instruction whose value is the computation's."""
        return next(each for each in self.instructions.values() if each.is_root)

    @cached_property
    def parameters(self) -> tuple[Instruction, ...]:
        """Its parameters in order."""
        found = [each for each in self.instructions.values() if each.opcode == "parameter"]
        return tuple(sorted(found, key=lambda each: int(each.operand_text)))

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each value."""
        users: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for each in self.instructions.values():
            for operand in each.operands:
                users[operand].append(each)
        return users

    def operand_arrays(self, instruction: Instruction) -> list[tuple[Array, ...]]:
        """The arrays of each operand of one of its instructions."""
        return [self.instructions[name].outputs for name in instruction.operands]


@dataclass(frozen=True)
class Module:
    """A program. frames: the lines of source by number, innermost first (see `source`)."""

    computations: dict[str, Computation]
    entry: Computation
    tables: dict[str, dict[int, str]]

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction calls directly."""
        names = [name for group in instruction.called.values() for name in group]
        return [self.computations[name] for name in names if name in self.computations]

    def source(self, frame: int | None) -> list[str]:
        """`file:line` of a stack frame and its callers, innermost first."""
        lines: list[str] = []
        while frame is not None and (row := self.tables["StackFrames"].get(frame)):
            location = self.tables["FileLocations"][_number(row, "file_location_id")]
            file = self.tables["FileNames"][_number(location, "file_name_id")].strip('"')
            lines.append(f"{file}:{_number(location, 'line')}")
            # The table counts parents from 1, with 1 for "none" and row n as n + 1.
            parent = _number(row, "parent_frame_id") - 1
            frame = parent if 0 < parent < frame else None
        return lines


def _number(row: str, key: str) -> int:
    found = re.search(rf"\b{key}=(\d+)", row)
    return int(found[1]) if found else 0


def parse_hlo(text: str) -> Module:
    """The module of an HLO text. ValueError if it holds no entry computation."""
    computations: dict[str, Computation] = {}
    tables: dict[str, dict[int, str]] = {name: {} for name in _FRAME_TABLES}
    entry, table = None, None
    instructions: list[str] | None = None  # those of the computation that is being read
    for line in text.splitlines():
        if instructions is None:
            header = _COMPUTATION.match(line)
            if header:
                instructions, name, is_entry = [], header[2], bool(header[1])
            elif line in tables:
                table = tables[line]
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2]
        elif _END.match(line):
            computations[name] = _computation(name, instructions)
            entry = computations[name] if is_entry else entry
            instructions = None
        elif _INSTRUCTION.match(line):
            instructions.append(line)
        elif instructions:  # an attribute with line breaks
            instructions[-1] += line
    if entry is None:
        raise ValueError("the text has no entry computation; it is not HLO")
    return Module(computations, entry, tables)


def _computation(name: str, lines: list[str]) -> Computation:
    instructions: dict[str, Instruction] = {}
    for line in lines:
        each = _instruction(line)
        for element in re.findall(r"%([^\s,()]+#\d+)", each.operand_text):
            if element not in instructions:
                instructions[element] = _element(element, instructions)
        instructions[each.name] = each
    return Computation(name, instructions)


def _element(name: str, instructions: dict[str, Instruction]) -> Instruction:
    """The get-tuple-element that a dumped program writes as `value#2`, or `value#2#0` in a tuple
    of tuples."""
    value, _, index = name.rpartition("#")
    if value not in instructions:
        instructions[value] = _element(value, instructions)
    text = _members(instructions[value].type)[int(index)]
    return Instruction(name, "get-tuple-element", text, f"%{value}", f", index={index}", False)


def _members(text: str) -> list[str]:
    """The types in a tuple's."""
    assert text.startswith("("), text
    members, depth = [""], 0
    for character in re.sub(r"/\*.*?\*/", "", text)[1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            members.append("")
        else:
            members[-1] += character
    return [member.strip() for member in members]


def _instruction(line: str) -> Instruction:
    found = _INSTRUCTION.match(line)
    assert found is not None, line
    operands, _, attributes = found["rest"].partition(")")
    return Instruction(
        name=found["name"],
        opcode=found["opcode"],
        type=found["type"],
        operand_text=operands,
        attributes=attributes,
        is_root=bool(found["root"]),
    )
