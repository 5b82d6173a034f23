"""The collectives of a program: their kind, the devices of a group, the mesh axes they cross."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jaxllm.aot.hlo import Instruction, Module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
OPCODES = {name: kind for kind in KINDS for name in (kind, f"{kind}-start")}
_RENDEZVOUS = r'_xla_host_transfer_rendezvous="([^"]*)"'
_TRANSFER = r'_xla_megascale_transfer_type="([^"]*)"'

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    bytes: of the whole array on a device, the larger of what goes in and what comes out. groups:
    the devices that exchange, as positions in the flat mesh; for a permute, the pairs (source,
    target). key: the same in every instruction that is a part of it.
    """

    kind: str
    bytes: int
    groups: Groups
    crosses_slices: bool
    key: str

    def axes(self, mesh: Mesh) -> tuple[str, ...]:
        """The mesh axes along which the devices of a group differ."""
        if self.crosses_slices:
            return ("slice",)
        shape = tuple(mesh.shape.values())
        differing: set[int] = set()
        for group in self.groups[: 64 if self.kind == "collective-permute" else 1]:
            positions = np.array(np.unravel_index(group, shape))
            differing |= set(np.flatnonzero((positions != positions[:, :1]).any(axis=1)).tolist())
        return tuple(name for index, name in enumerate(mesh.shape) if index in differing)


def collectives_in(module: Module, instruction: Instruction) -> list[Collective]:
    """What one scheduled instruction exchanges, be it inside of what it calls."""
    is_scattered = instruction.called.get("calls", ("",))[0].startswith("all-reduce-scatter")
    return [
        _collective(each, is_scattered=is_scattered) for each in _exchanges(module, instruction)
    ]


def _exchanges(module: Module, instruction: Instruction) -> Iterator[Instruction]:
    if instruction.opcode in OPCODES or _is_transfer(instruction):
        yield instruction
    elif instruction.opcode not in ("while", "conditional"):
        for computation in module.called(instruction):
            for each in computation.instructions.values():
                yield from _exchanges(module, each)


def _is_transfer(instruction: Instruction) -> bool:
    """Whether it begins an exchange through the data-centre network."""
    return instruction.opcode == "send" and bool(instruction.attribute(_TRANSFER))


def _collective(each: Instruction, *, is_scattered: bool) -> Collective:
    """is_scattered: it is the all-reduce of a fusion that keeps only this device's part."""
    if each.opcode == "send":
        kind = (each.attribute(_TRANSFER) or "").lower().replace("_", "-")
        return Collective(kind, each.outputs[0].bytes, (), True, transfer_key(each))
    kind = OPCODES[each.opcode]
    outputs = [array.bytes for array in each.outputs if array.shape]
    if each.opcode.endswith("-start"):
        # (operands, results, contexts): of all but the reduction the larger half is the result.
        size = max(outputs, default=0) if kind == "collective-permute" else _started(kind, outputs)
    else:
        size = sum(array.bytes for array in each.outputs)
    groups = _groups(each.attributes)
    if kind == "reduce-scatter":
        size *= len(groups[0]) if groups else 1
    if is_scattered and kind == "all-reduce":
        kind = "reduce-scatter"
    # Channels repeat; the parts of one exchange also share a chain and the shape of the result.
    channel, chain = each.attribute(r"channel_id=(\d+)"), each.attribute(r'chain_id="(\d+)"')
    shapes = [(array.dtype, array.shape) for array in each.outputs]
    return Collective(kind, size, groups, False, f"{kind} {channel} {chain} {shapes}")


def _started(kind: str, outputs: list[int]) -> int:
    """Bytes of the results in the type of an asynchronous start, (operands, results)."""
    return sum(outputs) if kind == "all-reduce" else sum(outputs[len(outputs) // 2 :])


def transfer_key(instruction: Instruction) -> str:
    """What the instructions of one exchange through the data-centre network share."""
    return instruction.attribute(_RENDEZVOUS) or instruction.name


def _groups(attributes: str) -> Groups:
    """The groups of devices in any of the ways that they are written; () if there are none."""
    pairs = re.search(r"source_target_pairs=\{([^=]*?\})\}", attributes)
    if pairs:
        return _listed(pairs[1])
    found = re.search(r"replica_groups=", attributes)
    if found is None:
        return ()
    text = attributes[found.end() :]
    if text.startswith("{"):
        listed = re.match(r"\{(\{[^=]*?\})?\}", text)
        return _listed(listed[1] or "") if listed else ()
    if text.startswith("["):
        return _iota(text)
    if text.startswith("mesh["):
        return _meshed(text)
    raise ValueError(f"cannot read the replica groups {text[:80]!r} in the compiled program")


def _listed(text: str) -> Groups:
    """{0,1},{2,3}"""
    return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", text))


def _iota(text: str) -> Groups:
    """[groups, size]<=[dimensions]T(permutation): consecutive devices, transposed."""
    found = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert found is not None, text[:80]
    shape, dims = (tuple(map(int, found[index].split(","))) for index in (1, 2))
    devices = np.arange(math.prod(dims)).reshape(dims)
    if found[3]:
        devices = devices.transpose(tuple(map(int, found[3].split(","))))
    return _rows(devices.reshape(shape))


def _meshed(text: str) -> Groups:
    """mesh['a'=2,'b'=8] {'b'}; a part of an axis is 'b':(1)4, its size behind those before it."""
    found = re.match(
        r"mesh\[([^\]]*)\](?:, device_ids=\((\[[^)]*(?:\)[^)]*)?)\))? \{([^}]*)\}", text
    )
    assert found is not None, text[:80]
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
    devices = np.arange(math.prod(sizes.values()))
    if found[2]:
        devices = np.array(_iota(f"[{devices.size}]<={found[2]}")).reshape(-1)
    taken = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found[3])
    }
    shape: list[int] = []
    inside: list[int] = []
    for name, size in sizes.items():
        before, part = taken.get(name, (1, 1))
        inside.extend([len(shape) + 1] if part > 1 else [])
        shape.extend([before, part, size // (before * part)])
    outside = [dim for dim in range(len(shape)) if dim not in inside]
    group_size = math.prod(shape[dim] for dim in inside)
    ordered = devices.reshape(shape).transpose(*outside, *inside)
    return _rows(ordered.reshape(-1, group_size))


def _rows(devices: np.ndarray) -> Groups:
    return tuple(map(tuple, devices.reshape(-1, devices.shape[-1]).tolist()))
