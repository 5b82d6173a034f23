"""Chips: arithmetic, memory, links and slices, for MFU and for what a compiled program costs."""

import ctypes
import math
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them. `peak_flops` is dense bf16 FLOP/s; `memory_gib` in GiB."""

    name: str
    peak_flops: float
    memory_gib: float


# By the start of `device.device_kind`, the longer names first. Peak rates: the vendors' data
# sheets (cloud.google.com/tpu/docs/system-architecture-tpu-vm; nvidia.com data sheets, dense).
# A v4 or v5p chip is one device (megacore); tpu7x shows two devices a chip, so half of each.
CHIPS: dict[str, Chip] = {
    "TPU v4": Chip("v4", 275e12, 32),
    "TPU v5 lite": Chip("v5e", 197e12, 16),
    "TPU v5e": Chip("v5e", 197e12, 16),
    "TPU v5p": Chip("v5p", 459e12, 95),
    "TPU v5": Chip("v5p", 459e12, 95),
    "TPU v6 lite": Chip("v6e", 918e12, 32),
    "TPU v6e": Chip("v6e", 918e12, 32),
    "TPU7x": Chip("tpu7x", 2307e12 / 2, 96),
    "NVIDIA A100": Chip("A100", 312e12, 80),
    "NVIDIA H100": Chip("H100", 989e12, 80),
    "NVIDIA H200": Chip("H200", 989e12, 141),
}


@dataclass(frozen=True)
class Tpu:
    """What a TPU generation can do. Bandwidths in bytes/s, one way; per device as JAX counts them.

    clock_hz: of the cycles in compiled programs. hbm_limit_gib: what the compiler lets a program
    use. link_bandwidth: one ICI link of a chip. torus_dims: dimensions of the network within a
    slice. ring_length: a dimension of a slice closes to a ring if it is a multiple of this (in a
    three-dimensional torus: if all are). cores_per_chip: how names like v5p-16 count.
    chip_config: the compiler's name for how the cores of a chip are joined.
    """

    name: str
    clock_hz: float
    hbm_bandwidth: float
    hbm_limit_gib: float
    link_bandwidth: float
    dcn_bandwidth: float
    host_bandwidth: float
    torus_dims: int
    ring_length: int
    cores_per_chip: int
    devices_per_chip: int
    chip_config: str
    slices: tuple[str, ...]

    @property
    def pods(self) -> dict[str, str]:
        """Slice by pod name, for example v5p:2x2x2 by v5p-16."""
        return {
            f"{self.name}-{self.cores_per_chip * math.prod(map(int, shape.split('x')))}": shape
            for shape in self.slices
        }


_PLANES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12"),
    *("8x8x16", "8x16x16", "16x16x16"),
)

# Bandwidths: the vendor's pages of each generation (docs.cloud.google.com/tpu/docs/v4, v5e, v5p,
# v6e, tpu7x), a chip's sum over its links and both directions divided by them. The link to the host
# is PCIe, shared by a host's chips: an estimate. clock_hz: the peak rate over the products that a
# chip's matrix units begin each cycle. hbm_limit_gib: from the compiler's own refusals.
TPUS: dict[str, Tpu] = {
    "v4": Tpu(
        name="v4",
        clock_hz=1.05e9,
        hbm_bandwidth=1228e9,
        hbm_limit_gib=30.75,
        link_bandwidth=50e9,
        dcn_bandwidth=6.25e9,
        host_bandwidth=16e9,
        torus_dims=3,
        ring_length=4,
        cores_per_chip=2,
        devices_per_chip=1,
        chip_config="megacore",
        slices=_CUBES,
    ),
    "v5e": Tpu(
        name="v5e",
        clock_hz=1.5e9,
        hbm_bandwidth=819e9,
        hbm_limit_gib=15.75,
        link_bandwidth=50e9,
        dcn_bandwidth=3.125e9,
        host_bandwidth=16e9,
        torus_dims=2,
        ring_length=16,
        cores_per_chip=1,
        devices_per_chip=1,
        chip_config="default",
        slices=_PLANES,
    ),
    "v5p": Tpu(
        name="v5p",
        clock_hz=1.75e9,
        hbm_bandwidth=2765e9,
        hbm_limit_gib=95.73,
        link_bandwidth=100e9,
        dcn_bandwidth=6.25e9,
        host_bandwidth=16e9,
        torus_dims=3,
        ring_length=4,
        cores_per_chip=2,
        devices_per_chip=1,
        chip_config="default",
        slices=(*_CUBES, "16x16x24"),
    ),
    "v6e": Tpu(
        name="v6e",
        clock_hz=1.75e9,
        hbm_bandwidth=1638e9,
        hbm_limit_gib=31.24,
        link_bandwidth=100e9,
        dcn_bandwidth=12.5e9,
        host_bandwidth=16e9,
        torus_dims=2,
        ring_length=16,
        cores_per_chip=1,
        devices_per_chip=1,
        chip_config="default",
        slices=_PLANES,
    ),
    # Two devices a chip, so half of a chip's rates each.
    "tpu7x": Tpu(
        name="tpu7x",
        clock_hz=2.2e9,
        hbm_bandwidth=7380e9 / 2,
        hbm_limit_gib=94.74,
        link_bandwidth=100e9 / 2,
        dcn_bandwidth=12.5e9 / 2,
        host_bandwidth=16e9,
        torus_dims=3,
        ring_length=4,
        cores_per_chip=2,
        devices_per_chip=2,
        chip_config="default",
        slices=(*_CUBES, "16x16x24"),
    ),
}


# Share of its peak, or of the speed of one large matmul, that a training step usually reaches.
USUAL_EFFICIENCY = 0.4


def usual_flops(devices: list[jax.Device]) -> float | None:
    """FLOP/s that a training step may be expected to reach on these devices together.

    From the chip's peak; on CPU from a float32 matmul on all cores (which its devices share),
    timed with NumPy, so that nothing is compiled; None for other chips.
    """
    chip = find_chip(devices[0].device_kind)
    if chip is not None:
        return USUAL_EFFICIENCY * chip.peak_flops * len(devices)
    if devices[0].platform != "cpu":
        return None
    size, fastest = 1024, math.inf
    matrix = np.ones((size, size), np.float32)
    for _ in range(4):
        begin = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - begin)
    return USUAL_EFFICIENCY * 2 * size**3 / fastest


def find_chip(device_kind: str) -> Chip | None:
    """The chip of a JAX device kind, or None for one without a known peak (a CPU)."""
    for prefix, chip in CHIPS.items():
        if device_kind.startswith(prefix):
            return chip
    return None


# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Let this process keep the host memory that it frees, for the next allocation.

    XLA on CPU allocates its temporaries anew every step; returned to the kernel and fetched
    again, page by page, they cost a quarter of a small model's step. Call it before the first
    computation. Only glibc has the switches; elsewhere nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_ARENA_MAX, 1)  # other arenas hold 64 MiB at most and return the rest
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


# Without a TPU its runtime asks the cloud for one and complains on stderr; with these it does not.
_NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def quiet_tpu_runtime() -> None:
    """Where libtpu is installed and no TPU is, let it load without a word. Call before any device.

    What the environment says already stays.
    """
    if not _has_tpu():
        for name, value in _NO_TPU.items():
            os.environ.setdefault(name, value)


def _has_tpu() -> bool:
    """Whether a device of the TPUs' vendor is on the PCI bus."""
    vendors = Path("/sys/bus/pci/devices").glob("*/vendor")
    return any(path.read_text().strip() == "0x1ae0" for path in vendors)
