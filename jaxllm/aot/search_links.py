"""How fast the devices along mesh axes exchange, by where a mesh lies on a slice's torus.

The innermost axis takes neighbours. Of a dimension that several axes share, the outer ones have
chips with gaps between them, and share the links.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxllm.aot.cost import EXPECTED
from jaxllm.aot.network import DCN_SECONDS, HOP_SECONDS
from jaxllm.aot.topology import Topology
from jaxllm.parallel.layouts import MESH_AXES, MeshAxis


@dataclass(frozen=True)
class Span:
    """Devices of an axis along one dimension of the torus, and the distance between them."""

    dim: int
    extent: int
    gap: int


@dataclass(frozen=True)
class Links:
    """The links between the devices of a mesh.

    spans: where each axis lies; dimension -1 is within a chip. sizes: devices along each axis.
    """

    topology: Topology
    sizes: Mapping[str, int]
    spans: Mapping[MeshAxis, tuple[Span, ...]]

    @classmethod
    def of(cls, topology: Topology, sizes: Mapping[str, int]) -> "Links":
        """The links of a mesh of these sizes, laid out from the innermost axis outwards."""
        free = {-1: topology.tpu.devices_per_chip}
        free |= {dim: topology.shape[dim] for dim in reversed(range(len(topology.shape)))}
        taken = dict.fromkeys(free, 1)
        spans: dict[MeshAxis, tuple[Span, ...]] = {}
        for axis in reversed(MESH_AXES):
            mine = []
            for dim, extent in _dimensions(1 if axis == "slice" else sizes.get(axis, 1), free):
                mine.append(Span(dim, extent, taken[dim]))
                taken[dim] *= extent
                free[dim] //= extent
            spans[axis] = tuple(mine)
        return cls(topology, sizes, spans)

    def size(self, *axes: MeshAxis) -> int:
        """Devices of a group along these axes."""
        return math.prod(self.sizes.get(axis, 1) for axis in axes)

    def rate(self, *axes: MeshAxis) -> float:
        """Bytes/s that reach each device of a group along these axes, over all its links."""
        tpu, total = self.topology.tpu, 0.0
        together: dict[int, list[Span]] = {}
        for axis in axes:
            for span in self.spans.get(axis, ()):
                together.setdefault(span.dim, []).append(span)
        for dim, spans in together.items():
            if dim == -1:
                continue
            extent, gap = math.prod(s.extent for s in spans), min(s.gap for s in spans)
            is_whole = extent * gap >= self.topology.shape[dim] and extent > 2
            ways = 2 if is_whole and self.topology.is_ring[dim] else 1
            total += ways * tpu.link_bandwidth / gap
        # Devices of one chip: as fast as all links of the chip together.
        return EXPECTED.link * (total or 2 * tpu.torus_dims * tpu.link_bandwidth)

    def gather(self, size: float, *axes: MeshAxis) -> float:
        """Seconds until every device has all of an array of `size` bytes; also to scatter sums."""
        devices = self.size(*axes)
        if devices == 1:
            return 0.0
        return size * (devices - 1) / devices / self.rate(*axes) + self._hops(*axes)

    def reduce(self, size: float, *axes: MeshAxis) -> float:
        """Seconds until every device has the sum of arrays of `size` bytes."""
        return 2 * self.gather(size, *axes)

    def swap(self, size: float, axis: MeshAxis) -> float:
        """Seconds of an all-to-all of `size` bytes a device."""
        if self.size(axis) == 1:
            return 0.0
        extent = max((span.extent for span in self.spans[axis]), default=1)
        share = max((self.size(axis) - 1) / self.size(axis), extent / 4)
        return share * size / (EXPECTED.link * self.topology.tpu.link_bandwidth)

    def between_slices(self, size: float) -> float:
        """Seconds until the slices have the sum of arrays of `size` bytes a device."""
        slices = self.topology.num_slices
        if slices == 1:
            return 0.0
        rate = self.topology.tpu.dcn_bandwidth * EXPECTED.dcn
        return DCN_SECONDS + 2 * (slices - 1) / slices * size / rate

    def _hops(self, *axes: MeshAxis) -> float:
        spans = [span for axis in axes for span in self.spans.get(axis, ())]
        return HOP_SECONDS * sum(max(1, span.extent // 2) for span in spans)


def _dimensions(size: int, free: Mapping[int, int]) -> list[tuple[int, int]]:
    """Dimensions that an axis takes and how much of each: the most whole ones that make it up.

    So JAX chooses, as more dimensions are more links. Otherwise parts of one after the other; what
    they do not divide goes over the links found.
    """
    whole = [dim for dim, length in free.items() if length > 1]
    for count in range(len(whole), 0, -1):
        for dims in itertools.combinations(whole, count):
            if math.prod(free[dim] for dim in dims) == size:
                return [(dim, free[dim]) for dim in dims]
    parts = []
    for dim in whole:
        extent = math.gcd(size, free[dim])
        if extent > 1:
            parts.append((dim, extent))
            size //= extent
    return parts
