"""How long a step takes and what it exchanges, from the text of its compiled program."""

from collections.abc import Iterable
from dataclasses import dataclass

from jax.sharding import Mesh

from jaxllm.aot.cost import EXPECTED, OPTIMIST, PESSIMIST
from jaxllm.aot.hlo import Module
from jaxllm.aot.network import Network
from jaxllm.aot.report import CollectiveLine
from jaxllm.aot.timeline import Exchange, Machine, Timeline
from jaxllm.aot.topology import Topology
from jaxllm.hardware import find_chip


@dataclass(frozen=True)
class Prediction:
    """A step's time in seconds: expected, and what an optimist and a pessimist would say."""

    seconds: float
    seconds_range: tuple[float, float]
    seconds_by_kind: dict[str, float]
    cycles: float
    collectives: tuple[CollectiveLine, ...]
    warnings: tuple[str, ...]


def predict(module: Module, topology: Topology, mesh: Mesh) -> Prediction:
    """Replays a scheduled program on the topology's chips. mesh: the devices it was compiled for.

    It ranks programs; what a pod takes may differ from every figure.
    """
    devices = list(mesh.devices.flat)
    chip = find_chip(devices[0].device_kind)
    assert chip is not None, devices[0].device_kind
    network = Network.of(topology, devices)
    expected, low, high = (
        Machine(module, chip, network, assumed).run() for assumed in (EXPECTED, OPTIMIST, PESSIMIST)
    )
    return Prediction(
        seconds=expected.seconds,
        seconds_range=(low.seconds, high.seconds),
        seconds_by_kind=dict(sorted(expected.kinds.items())),
        cycles=expected.cycles,
        collectives=collective_lines(expected.exchanges.values(), mesh),
        warnings=tuple(_warnings(expected)),
    )


def collective_lines(exchanges: Iterable[Exchange], mesh: Mesh) -> tuple[CollectiveLine, ...]:
    """The exchanges summed by kind, mesh axes and whether they are asynchronous; longest first."""
    lines: dict[tuple[str, tuple[str, ...], bool], CollectiveLine] = {}
    for each in exchanges:
        axes = each.collective.axes(mesh)
        key = (each.collective.kind, axes, each.is_async)
        before = lines.get(key, CollectiveLine(*key, 0, 0, 0.0, 0.0))
        lines[key] = CollectiveLine(
            *key,
            count=before.count + each.count,
            bytes=before.bytes + each.count * each.collective.bytes,
            seconds=before.seconds + each.seconds,
            exposed_seconds=before.exposed_seconds + each.exposed,
        )
    return tuple(sorted(lines.values(), key=lambda line: -line.seconds))


def _warnings(timeline: Timeline) -> Iterable[str]:
    if timeline.unknown_loops:
        names = ", ".join(sorted(timeline.unknown_loops))
        yield f"loops whose length the program does not say count once: {names}"
    if timeline.uneven_loops:
        yield "rounds that only uneven loads of experts need are not counted"
    if timeline.unknown_kernels:
        names = ", ".join(sorted(timeline.unknown_kernels))
        yield f"kernels without a cost estimate count by the bytes they move: {names}"
