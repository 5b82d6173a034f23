"""How long a collective takes on a slice's torus of links, or between slices.

A ring model: each device sends and receives its share over all links of the dimensions that a
group spans, at the rate of the slowest device. It knows nothing of switching or of contention
between different collectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax

from jaxllm.aot.collectives import Collective
from jaxllm.aot.topology import Topology

HOP_SECONDS = 1e-6  # from a chip to the next, with the synchronisation of a step around a ring
DCN_SECONDS = 1e-4  # there and back between slices


@dataclass(frozen=True)
class Network:
    """The chips of a mesh and the links between them.

    places: chip of each device of the flat mesh: its coordinates and its slice.
    """

    topology: Topology
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, topology: Topology, devices: Sequence[jax.Device]) -> "Network":
        """The network of these devices, in the order of the flat mesh."""
        places = tuple(
            (*device.coords[:3], getattr(device, "slice_index", 0)) for device in devices
        )
        return cls(topology, places)

    def seconds(self, collective: Collective, *, efficiency: float) -> float:
        """The duration of one collective. efficiency: share of a link's rate that is reached."""
        if collective.crosses_slices:
            return self._between_slices(collective, efficiency)
        if collective.kind == "collective-permute":
            return self._permute(collective, efficiency)
        groups = collective.groups or (tuple(range(len(self.places))),)
        group = groups[0]
        if len(group) == 1:
            return 0.0
        spans = self._spans(group)
        hops = sum(max(1, extent // 2) for extent, _ in spans)
        rate = sum(bandwidth for _, bandwidth in spans) * efficiency
        share = (len(group) - 1) / len(group)
        match collective.kind:
            case "all-reduce":
                return 2 * (share * collective.bytes / rate + hops * HOP_SECONDS)
            case "all-to-all" | "ragged-all-to-all":
                # The middle of the longest dimension passes half of all bytes each way.
                extent, bandwidth = max(spans)
                traffic = max(share, extent / 4) * collective.bytes
                return traffic / (bandwidth * efficiency) + hops * HOP_SECONDS
        return share * collective.bytes / rate + hops * HOP_SECONDS

    def _between_slices(self, collective: Collective, efficiency: float) -> float:
        slices = self.topology.num_slices
        share = (slices - 1) / max(slices, 1)
        times = 2 if collective.kind == "all-reduce" else 1
        rate = self.topology.tpu.dcn_bandwidth * efficiency
        return DCN_SECONDS + times * share * collective.bytes / rate

    def _permute(self, collective: Collective, efficiency: float) -> float:
        """The farthest pair decides; what passes a link on the way shares it."""
        sizes = (*self.topology.shape, 1, 1)[:3]
        hops = 0
        for source, target in collective.groups:
            if self.places[source][3] != self.places[target][3]:
                return self._between_slices(collective, efficiency)
            steps = zip(
                self.places[source], self.places[target], sizes, self.topology.is_ring, strict=False
            )
            distances = [
                min(abs(a - b), size - abs(a - b)) if closed else abs(a - b)
                for a, b, size, closed in steps
            ]
            hops = max(hops, sum(distances))
        rate = self.topology.tpu.link_bandwidth * efficiency
        return max(1, hops) * (HOP_SECONDS + collective.bytes / rate)

    def _spans(self, group: Sequence[int]) -> list[tuple[int, float]]:
        """Chips along each dimension that a group spans, and the bytes/s that reach its corner."""
        link, spans = self.topology.tpu.link_bandwidth, []
        for dim, closed in enumerate(self._rings(group)):
            values = {self.places[device][dim] for device in group}
            if len(values) > 1:
                # With gaps between its chips, as many groups share the links.
                gap = (max(values) - min(values)) / (len(values) - 1)
                spans.append((len(values), (2 if closed else 1) * link / gap))
        # Devices of one chip: as fast as all links of the chip together.
        return spans or [(1, 2 * self.topology.tpu.torus_dims * link)]

    def _rings(self, group: Sequence[int]) -> list[bool]:
        """For each dimension, whether the group closes to a ring along it."""
        sizes = (*self.topology.shape, 1, 1)[:3]
        closed = []
        for dim, size in enumerate(sizes):
            values = {self.places[device][dim] for device in group}
            goes_around = (max(values) - min(values)) * len(values) >= size * (len(values) - 1)
            closed.append(self.topology.is_ring[dim] and len(values) > 2 and goes_around)
        return closed
