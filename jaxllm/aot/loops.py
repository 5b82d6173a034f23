"""How often the loops of a program run, from their conditions."""

from dataclasses import dataclass

from jaxllm.aot.hlo import Computation, Instruction, Module

_SAME = ("copy", "bitcast", "convert", "reshape", "copy-done", "optimization-barrier")


@dataclass(frozen=True)
class Affine:
    """The scalar `element of the computation's argument + offset`; element None: a constant."""

    offset: int
    element: int | None = None


def trip_count(module: Module, within: Computation, loop: Instruction) -> int | None:
    """The number of iterations of a `while`; None if its condition is not a count.

    The condition compares an element of the loop's state, which the body moves by a constant, with
    another constant or an element that the body leaves alone.
    """
    stated = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
    if stated is not None:
        return int(stated)
    condition = module.computations[loop.called["condition"][0]]
    body = module.computations[loop.called["body"][0]]
    state = within.instructions[loop.operands[0]]

    def at_start(value: Affine | None) -> int | None:
        if value is None or value.element is None:
            return None if value is None else value.offset
        if state.opcode != "tuple":
            return None
        first = scalar(module, within, state.operands[value.element])
        if first is None or first.element is not None:
            return None
        return first.offset + value.offset

    found = _comparison(module, condition)
    if found is None:
        return None
    direction, left, right = found
    start, limit = at_start(left), at_start(right)
    steps = [_step(module, body, value) for value in (left, right)]
    if start is None or limit is None or None in steps:
        return None
    return _count(direction, start - limit, (steps[0] or 0) - (steps[1] or 0))


def _count(direction: str, distance: int, step: int) -> int | None:
    """Iterations until `distance DIRECTION 0` is false, as distance moves by step each time."""
    if direction in ("GT", "GE"):
        distance, step, direction = -distance, -step, {"GT": "LT", "GE": "LE"}[direction]
    if direction == "NE":
        distance, step = (distance, step) if distance < 0 else (-distance, -step)
    if direction == "LE":
        distance -= 1
    if step <= 0 or direction not in ("LT", "LE", "NE"):
        return None
    return max(0, -(distance // step))


def _comparison(
    module: Module, condition: Computation
) -> tuple[str, Affine | None, Affine | None] | None:
    """Direction and sides of the comparison that a condition returns."""
    root, within = condition.root, condition
    bound: dict[str, Affine | None] = {}
    if root.opcode == "fusion":
        within, bound = _enter(module, condition, root, {})
        root = within.root
    direction = root.attribute(r"\bdirection=(\w+)")
    if root.opcode != "compare" or direction is None:
        return None
    left, right = (scalar(module, within, name, bound) for name in root.operands)
    return direction, left, right


def _step(module: Module, body: Computation, value: Affine | None) -> int | None:
    """By how much an iteration moves an element of the state; 0 for a constant."""
    if value is None or value.element is None:
        return 0
    if body.root.opcode != "tuple":
        return None
    after = scalar(module, body, body.root.operands[value.element])
    return None if after is None or after.element != value.element else after.offset


def _enter(
    module: Module,
    within: Computation,
    fusion: Instruction,
    bound: dict[str, Affine | None],
) -> tuple[Computation, dict[str, Affine | None]]:
    """The computation that a fusion calls, with what its parameters are."""
    inner = module.computations[fusion.called["calls"][0]]
    values = [scalar(module, within, name, bound) for name in fusion.operands]
    names = [parameter.name for parameter in inner.parameters]
    return inner, dict(zip(names, values, strict=True))


def scalar(
    module: Module, within: Computation, name: str, bound: dict[str, Affine | None] | None = None
) -> Affine | None:
    """An integer as an element of the computation's argument plus a constant; None if it is not.

    bound: what the computation's parameters are, for one inside a fusion.
    """
    bound = bound or {}
    if name in bound:
        return bound[name]
    each = within.instructions[name]
    match each.opcode:
        case "constant":
            text = each.operand_text
            return Affine(int(text)) if text.lstrip("-").isdigit() else None
        case "get-tuple-element":
            source = within.instructions[each.operands[0]]
            index = each.attribute(r"\bindex=(\d+)")
            return Affine(0, int(index or 0)) if source.opcode == "parameter" else None
        case "copy-start":
            return scalar(module, within, each.operands[0], bound)
        case "add" | "subtract":
            left, right = (scalar(module, within, operand, bound) for operand in each.operands)
            return _sum(left, right, sign=1 if each.opcode == "add" else -1)
        case "fusion":
            inner, inner_bound = _enter(module, within, each, bound)
            return scalar(module, inner, inner.root.name, inner_bound)
        case opcode if opcode in _SAME:
            return scalar(module, within, each.operands[0], bound)
    return None


def _sum(left: Affine | None, right: Affine | None, *, sign: int) -> Affine | None:
    if left is None or right is None:
        return None
    if right.element is None:
        return Affine(left.offset + sign * right.offset, left.element)
    if left.element is None and sign == 1:
        return Affine(left.offset + right.offset, right.element)
    return None
