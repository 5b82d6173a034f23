"""A scheduled program replayed in order on a model of one chip: how long it takes, and what of.

Compute runs in the order of the schedule. An asynchronous exchange begins at its start, after those
begun before it on the same links, and only what is not done by its end is waited for: the exposed
part. Loops repeat their body.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from jaxllm.aot.collectives import Collective, collectives_in, transfer_key
from jaxllm.aot.cost import Assumptions, seconds, work_of
from jaxllm.aot.hlo import HBM, HOST, Computation, Instruction, Module
from jaxllm.aot.loops import trip_count
from jaxllm.aot.network import Network
from jaxllm.hardware import Chip
from jaxllm.nn.expert_dispatch import UNEVEN_LOADS

Phase = Literal["start", "during", "end", "whole"]
_COPIES = ("copy", "slice", "dynamic-slice", "dynamic-update-slice")
_CALLS = ("call", "async")


@dataclass
class Exchange:
    """All runs of one collective in a step. seconds: on the links. exposed: waited for."""

    collective: Collective
    is_async: bool
    count: int = 0
    seconds: float = 0.0
    exposed: float = 0.0


@dataclass
class Timeline:
    """What a stretch of a program takes, in seconds by kind of work.

    kinds: matmul, vector, pallas, communication (exposed) and copy (waiting for copies between
    memories, or for the chip's other cores). cycles: the compiler's estimates, summed.
    unknown_loops: loops that are counted once. uneven_loops: loops that are not counted, because
    they run only where the loads of experts are uneven. unknown_kernels: kernels whose FLOPs nobody
    states, counted by their bytes.
    """

    seconds: float = 0.0
    cycles: float = 0.0
    kinds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    unknown_loops: set[str] = field(default_factory=set)
    uneven_loops: set[str] = field(default_factory=set)
    unknown_kernels: set[str] = field(default_factory=set)

    def add(self, other: "Timeline", times: int = 1) -> None:
        """Append what runs `times` times."""
        self.seconds += times * other.seconds
        self.cycles += times * other.cycles
        for kind, spent in other.kinds.items():
            self.kinds[kind] += times * spent
        for key, exchange in other.exchanges.items():
            mine = self.exchanges.setdefault(key, Exchange(exchange.collective, exchange.is_async))
            mine.count += times * exchange.count
            mine.seconds += times * exchange.seconds
            mine.exposed += times * exchange.exposed
        self.unknown_loops |= other.unknown_loops
        self.uneven_loops |= other.uneven_loops
        self.unknown_kernels |= other.unknown_kernels


@dataclass(frozen=True)
class Machine:
    """What a program is replayed on."""

    module: Module
    chip: Chip
    network: Network
    assumed: Assumptions

    def run(self) -> Timeline:
        """One run of the program's entry."""
        return _Replay(self, self.module.entry).run()

    def exchange_seconds(self, collective: Collective) -> float:
        """The duration of a collective."""
        share = self.assumed.dcn if collective.crosses_slices else self.assumed.link
        return self.network.seconds(collective, efficiency=share)


class _Replay:
    """One computation, from its first instruction to its last."""

    def __init__(self, machine: Machine, computation: Computation):
        self._machine = machine
        self._computation = computation
        self._done = Timeline()
        self._free: dict[str, float] = defaultdict(float)  # when each kind of link is free
        self._ends: dict[str, float] = {}  # when each exchange or copy in flight is done

    def run(self) -> Timeline:
        for instruction in self._computation.instructions.values():
            self._step(instruction)
        return self._done

    def _step(self, instruction: Instruction) -> None:
        match instruction.opcode:
            case "while":
                self._loop(instruction)
            case "call" | "conditional":
                self._branch(instruction)
            case "recv-done" if key := self._received(instruction):
                self._wait(key, "communication")
            case opcode if opcode.rpartition("-")[0] in _COPIES:
                self._copy(instruction)
            case "custom-call-start" | "custom-call-done":
                self._host_call(instruction)
            case _:
                found = list(self._exchanges(instruction))
                for exchange in found:
                    self._exchange(*exchange)
                if not found and instruction.opcode.partition("-")[0] in _CALLS:
                    self._call(instruction)
                elif not found or any(phase == "during" for _, phase, _ in found):
                    self._compute(instruction)

    def _loop(self, loop: Instruction) -> None:
        machine = self._machine
        trips = trip_count(machine.module, self._computation, loop)
        body = machine.module.computations[loop.called["body"][0]]
        if trips is None and UNEVEN_LOADS in loop.op_name:
            self._done.uneven_loops.add(loop.name)  # routers are trained for even loads
            return
        if trips is None:
            self._done.unknown_loops.add(loop.name)
        self._done.add(_Replay(machine, body).run(), 1 if trips is None else trips)

    def _branch(self, instruction: Instruction) -> None:
        """A call, or the branch of a conditional that takes longest."""
        branches = [
            _Replay(self._machine, called).run()
            for called in self._machine.module.called(instruction)
        ]
        self._done.add(max(branches, key=lambda branch: branch.seconds))

    def _exchanges(self, instruction: Instruction) -> Iterator[tuple[Collective, Phase, str]]:
        """The collectives that an instruction begins, continues, ends or is, each by a name."""
        if instruction.opcode.endswith("-update"):
            return
        phase, origin = self._phase(instruction), instruction
        if instruction.opcode.endswith("-done"):
            phase, origin = "end", self._started(instruction)
        for collective in collectives_in(self._machine.module, origin):
            # The fusions of one exchange have names of their own, a start and its end one origin.
            name = "" if phase != "whole" and origin.opcode == "fusion" else origin.name
            name = "" if origin.opcode == "send" else name
            yield collective, phase, f"{name} {collective.key}".strip()

    def _phase(self, instruction: Instruction) -> Phase:
        if instruction.opcode.endswith("-start") or instruction.opcode == "send":
            return "start"
        if instruction.opcode != "fusion":
            return "whole"
        inner = self._machine.module.called(instruction)[0]
        if any(each.target == "AsyncCollectiveDone" for each in inner.instructions.values()):
            return "end"
        # The first of such fusions begins the exchange.
        is_part = any(
            "async_collective_fusion_config" in each.attributes
            for each in inner.instructions.values()
        )
        return "during" if is_part else "whole"

    def _started(self, done: Instruction) -> Instruction:
        """The instruction that began what `done` ends."""
        start = done
        while start.operands and not start.opcode.endswith("-start"):
            start = self._computation.instructions[start.operands[0]]
        return start

    def _received(self, done: Instruction) -> str | None:
        """What a recv-done waits for, if it came through the data-centre network."""
        received = self._computation.instructions[done.operands[0]]
        key = transfer_key(received)
        return key if key in self._ends else None

    def _exchange(self, collective: Collective, phase: Phase, name: str) -> None:
        if phase in ("start", "whole") or name not in self._ends:
            links = "slices" if collective.crosses_slices else "chips"
            taken = self._machine.exchange_seconds(collective)
            self._ends[name] = self._begin(links, taken)
            mine = self._done.exchanges.setdefault(
                self._key(name), Exchange(collective, phase != "whole")
            )
            mine.count += 1
            mine.seconds += taken
        if phase in ("end", "whole"):
            self._wait(name, "communication")

    def _key(self, name: str) -> str:
        """A name of this computation as the whole program knows it."""
        return f"{self._computation.name} {name}"

    def _copy(self, instruction: Instruction) -> None:
        """A copy between memories by the copy engines, while compute goes on."""
        if instruction.opcode.endswith("-done"):
            self._wait(self._started(instruction).name, "copy")
            return
        moved = [array for array in instruction.outputs if array.shape]
        # The part that is moved is the smallest: source and target hold it, or are it.
        size = min((array.bytes for array in moved), default=0)
        spaces = {array.space for array in moved}
        tpu, assumed = self._machine.network.topology.tpu, self._machine.assumed
        if HOST in spaces:
            engine, taken = "host", size / (tpu.host_bandwidth * assumed.host)
        else:
            times = 2 if spaces == {HBM} else 1
            engine, taken = "memory", times * size / (tpu.hbm_bandwidth * assumed.hbm)
        self._ends[instruction.name] = self._begin(engine, taken)

    def _host_call(self, instruction: Instruction) -> None:
        """What the host does with its own memory, while compute goes on: an update in place."""
        if instruction.opcode.endswith("-done"):
            self._wait(self._started(instruction).name, "copy")
            return
        operands = self._computation.operand_arrays(instruction)
        size = sum(array.bytes for types in operands for array in types if array.space == HOST)
        rate = self._machine.network.topology.tpu.host_bandwidth * self._machine.assumed.host
        self._ends[instruction.name] = self._begin("host", size / rate)

    def _call(self, instruction: Instruction) -> None:
        """A computation that another core of the chip runs, while compute goes on here."""
        if instruction.opcode.endswith("-done"):
            self._wait(self._started(instruction).name, "copy")
        elif instruction.opcode.endswith("-start"):
            called = [
                _Replay(self._machine, each).run()
                for each in self._machine.module.called(instruction)
            ]
            taken = sum(each.seconds for each in called)
            self._ends[instruction.name] = self._begin("cores", taken)

    def _begin(self, links: str, taken: float) -> float:
        """When something that needs these links for so long is done."""
        self._free[links] = max(self._done.seconds, self._free[links]) + taken
        return self._free[links]

    def _wait(self, name: str, kind: str) -> None:
        waited = max(0.0, self._ends.pop(name, 0.0) - self._done.seconds)
        self._done.seconds += waited
        self._done.kinds[kind] += waited
        if self._key(name) in self._done.exchanges:
            self._done.exchanges[self._key(name)].exposed += waited

    def _compute(self, instruction: Instruction) -> None:
        machine, done = self._machine, self._done
        work = work_of(machine.module, self._computation, instruction)
        if work is None:
            return
        if work.kind == "pallas" and not work.flops:
            done.unknown_kernels.add(instruction.name)
        tpu = machine.network.topology.tpu
        taken = seconds(work, chip=machine.chip, tpu=tpu, assumed=machine.assumed)
        done.seconds += taken
        done.kinds[work.kind] += taken
        done.cycles += work.cycles or 0
