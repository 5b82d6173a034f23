"""Chips: peak arithmetic and memory, for MFU and expected time."""

import ctypes
import platform
from dataclasses import dataclass


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
