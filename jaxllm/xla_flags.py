"""Compiler options for each generation of chips, each with its reason and its measured effect.

They are given to the compiler with the program, not through the environment, so that two programs
of one process may differ and a checkpointed config says what was used.
"""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxllm.hardware import find_chip

FlagValue = bool | int | float | str
Options = dict[str, FlagValue]


@dataclass(frozen=True)
class Flag:
    """One compiler option. effect: the predicted change and the program it was measured on."""

    name: str
    value: FlagValue
    reason: str
    effect: str


_MEASURED = "Llama-2-7B, fsdp, full remat, 4 rows of 2,048 a chip, predicted step"

_NO_WINDOWED_EINSUM = Flag(
    "xla_jf_spmd_threshold_for_windowed_einsum_mib",
    1_000_000,
    "Above the threshold a matmul on a gathered weight is cut in one thin product a shard, to "
    "overlap with the gather; the thin products cost more than the gather that they hide.",
    f"{_MEASURED}: 16 v4 chips 5.280 -> 2.473 s, 16 v5e chips 4.005 -> 3.211 s, 8 v5p chips "
    "(gathers not on SparseCores) 1.558 -> 1.540 s, 16 v6e chips 1.624 -> 1.131 s, 8 tpu7x chips "
    "2.084 -> 0.814 s",
)

_NO_NARROWING = Flag(
    "xla_jf_bf16_propagation",
    False,
    "Otherwise float32 values that are only read as bfloat16 become bfloat16 where they are made: "
    "of the weights of all layers a second copy lies in memory throughout the step.",
    f"{_MEASURED}, and peak: 16 v5e chips 11.04 -> 10.29 GiB, step unchanged",
)

_GATHER_ON_SPARSE_CORES = Flag(
    "xla_tpu_enable_sparse_core_collective_offload_all_gather",
    True,
    "All-gathers of weights run on the SparseCores beside the matmuls instead of between them. "
    "The variants for all-reduce and reduce-scatter gave wrong losses elsewhere and stay off.",
    f"{_MEASURED}: 8 v5p chips 1.540 -> 1.444 s, 16 v6e chips 1.214 -> 1.131 s, all-gathers "
    "hidden behind matmuls",
)

_GATHER_BESIDE_COMPUTE = Flag(
    "xla_enable_async_all_gather",
    True,
    "All-gathers of weights run beside the matmuls instead of between them.",
    f"{_MEASURED}: 16 v4 chips 2.473 -> 2.290 s",
)

# Together they are one switch: without the first there is nothing to fuse, without the second no
# compute to hide behind, and without the third gradients are merged in groups that cannot be fused.
_REDUCE_BESIDE_COMPUTE = (
    Flag(
        "xla_enable_async_all_reduce",
        True,
        "All-reduces of gradients are begun and ended by instructions of their own.",
        f"{_MEASURED}, with the next two: 16 v5e chips 3.211 -> 3.149 s, 9.6 of 12.6 GiB hidden",
    ),
    Flag(
        "xla_tpu_enable_async_collective_fusion_fuse_all_reduce",
        True,
        "The steps of an asynchronous all-reduce run within the matmuls after it, as those of "
        "all-gathers do. The compiler takes it on v5e only.",
        "see the one before",
    ),
    Flag(
        "xla_jf_crs_combiner_threshold_in_bytes",
        1 << 20,
        "All-reduces above a size stay apart: merged ones are never asynchronous.",
        "see the one before",
    ),
)


def _fast_memory(kib: int, effect: str) -> Flag:
    return Flag(
        "xla_tpu_scoped_vmem_limit_kib",
        kib,
        "Fast memory for one fusion: the more, the larger the tiles of matmuls, and the less often "
        "operands are read anew. The compiler takes two to four times as long, as it has more to "
        "choose from.",
        f"{_MEASURED}: {effect}",
    )


FLAGS: dict[str, tuple[Flag, ...]] = {
    "v4": (_NO_WINDOWED_EINSUM, _NO_NARROWING, _GATHER_BESIDE_COMPUTE),
    "v5e": (
        _NO_WINDOWED_EINSUM,
        _NO_NARROWING,
        *_REDUCE_BESIDE_COMPUTE,
        _fast_memory(49152, "16 v5e chips 3.149 -> 2.738 s"),
    ),
    "v5p": (
        _NO_WINDOWED_EINSUM,
        _NO_NARROWING,
        _GATHER_ON_SPARSE_CORES,
        _fast_memory(49152, "8 v5p chips 1.444 -> 1.236 s"),
    ),
    "v6e": (
        _NO_WINDOWED_EINSUM,
        _NO_NARROWING,
        _GATHER_ON_SPARSE_CORES,
        _fast_memory(98304, "16 v6e chips 1.131 -> 0.962 s (49152: 0.989 s)"),
    ),
    "tpu7x": (
        _NO_WINDOWED_EINSUM,
        _NO_NARROWING,
        _fast_memory(49152, "8 tpu7x chips 0.814 -> 0.717 s"),
    ),
}


def compiler_options(
    devices: Iterable[jax.Device], overrides: Mapping[str, FlagValue | None]
) -> Options:
    """The table's options for this kind of devices, changed by the config's `xla_flags`.

    An override of None takes an option out. An option of the table that the installed compiler
    does not know is left out with a warning that names it; ValueError for an override that it
    does not know or cannot read.
    """
    device = min(devices, key=lambda device: device.process_index != jax.process_index())
    chip = find_chip(device.device_kind)
    table = FLAGS.get(chip.name, ()) if chip is not None else ()
    options: Options = {}
    for flag in table:
        if flag.name in overrides:
            continue
        problem = refusal(device, flag.name, flag.value)
        if problem is None:
            options[flag.name] = flag.value
        else:
            warnings.warn(f"the compiler option {flag.name} is left out: {problem}", stacklevel=2)
    for name, value in overrides.items():
        if value is None:
            continue
        problem = refusal(device, name, value)
        if problem is not None:
            raise ValueError(f"xla_flags.{name}={value}: {problem}")
        options[name] = value
    return options


def refusal(device: jax.Device, name: str, value: FlagValue) -> str | None:
    """What the compiler for this device says against an option; None if it takes it."""
    where = SingleDeviceSharding(device)
    scalar = jax.ShapeDtypeStruct((), np.int32, sharding=where)
    program = jax.jit(lambda x: x, out_shardings=where).lower(scalar)
    try:
        program.compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        return str(error)
    return None
