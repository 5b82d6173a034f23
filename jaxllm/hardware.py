"""Chips: peak arithmetic and memory, for MFU and expected time."""

import ctypes
import math
import platform
import time
from dataclasses import dataclass

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
