"""What `compile` found out about a program, as data with stable names."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CollectiveLine:
    """The collectives of one kind along the same mesh axes in a step.

    bytes: of the whole arrays on one device, summed over all runs. seconds: on the links.
    exposed_seconds: those that compute waits for, with the wait for exchanges before them.
    """

    kind: str
    axes: tuple[str, ...]
    asynchronous: bool
    count: int
    bytes: int
    seconds: float
    exposed_seconds: float


@dataclass(frozen=True)
class BufferLine:
    """One of the largest temporary buffers. source: file and line that it comes from."""

    gib: float
    type: str
    source: str
    operation: str


@dataclass(frozen=True)
class Report:
    """A compiled training step. Memory in GiB on one device; times in seconds.

    fits: whether peak_hbm_gib is within hbm_limit_gib; where it is not, what concerns time is None
    or empty. predicted_step_seconds lies within predicted_step_seconds_range (optimist,
    pessimist). memory_gib: parameters, optimizer, activations, temporaries. seconds_by_kind:
    matmul, vector, pallas, communication (exposed), copy. estimated_cycles: the compiler's, summed
    over all loops. chips, not devices, divide tokens_per_second_per_chip.
    """

    fits: bool
    peak_hbm_gib: float
    hbm_limit_gib: float
    memory_gib: dict[str, float]
    host_memory_gib: float
    largest_buffers: tuple[BufferLine, ...]
    predicted_step_seconds: float | None
    predicted_step_seconds_range: tuple[float, float] | None
    predicted_mfu: float | None
    tokens_per_second_per_chip: float | None
    tokens_per_step: int
    seconds_by_kind: dict[str, float]
    estimated_cycles: float | None
    collectives: tuple[CollectiveLine, ...]
    compile_seconds: float
    topology: str
    num_slices: int
    chips: int
    devices: int
    mesh: dict[str, int]
    num_params: int
    num_active_params: int
    compiler_options: dict[str, Any]
    assumptions: dict[str, float]
    versions: dict[str, str]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as a tree of plain values."""
        return dataclasses.asdict(self)
