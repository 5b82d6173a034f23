"""What a compiled training step amounts to, for its config, mesh and chips."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from jaxllm.aot.compilation import Compiled
from jaxllm.aot.cost import EXPECTED
from jaxllm.aot.memory import local_bytes, memory_parts
from jaxllm.aot.prediction import Prediction, predict
from jaxllm.aot.report import BufferLine, Report
from jaxllm.aot.topology import PINNED_LIBTPU, Topology, compiler_versions
from jaxllm.commands.assembly import Assembly
from jaxllm.commands.step_flops import flops_per_token
from jaxllm.config import RunConfig
from jaxllm.hardware import find_chip


def make_report(
    config: RunConfig,
    topology: Topology,
    parts: Assembly,
    compiled: Compiled,
    *,
    options: Mapping[str, Any],
    notes: Sequence[str],
) -> Report:
    """What is known of a compiled step. notes: warnings so far.

    options: the compiler's options it was compiled with.
    """
    layout, versions = parts.layout, compiler_versions()
    notes = list(notes)
    if versions["libtpu"] != PINNED_LIBTPU:
        notes.append(f"libtpu is {versions['libtpu']}; predictions were made with {PINNED_LIBTPU}")
    predicted: Prediction | None = None
    if compiled.fits and compiled.module is not None:
        predicted = predict(compiled.module, topology, layout.mesh)
        notes.extend(predicted.warnings)
    devices = layout.mesh.devices.size
    chips = devices // topology.tpu.devices_per_chip
    tokens = config.data.global_batch_size * config.data.sequence_length
    seconds = None if predicted is None else predicted.seconds
    return Report(
        fits=compiled.fits,
        peak_hbm_gib=compiled.peak_gib,
        hbm_limit_gib=compiled.limit_gib,
        memory_gib=_memory_gib(parts, compiled),
        host_memory_gib=compiled.host_gib,
        largest_buffers=tuple(
            BufferLine(each.bytes / 2**30, each.type, each.source, each.operation)
            for each in compiled.buffers
        ),
        predicted_step_seconds=seconds,
        predicted_step_seconds_range=None if predicted is None else predicted.seconds_range,
        predicted_mfu=None if seconds is None else _mfu(config, parts, tokens, seconds),
        tokens_per_second_per_chip=None if seconds is None else tokens / seconds / chips,
        tokens_per_step=tokens,
        seconds_by_kind={} if predicted is None else predicted.seconds_by_kind,
        estimated_cycles=None if predicted is None else predicted.cycles,
        collectives=() if predicted is None else predicted.collectives,
        compile_seconds=compiled.seconds,
        topology=topology.name,
        num_slices=topology.num_slices,
        chips=chips,
        devices=devices,
        mesh=dict(layout.mesh.shape),
        num_params=parts.num_params,
        num_active_params=parts.num_active_params,
        compiler_options=dict(options),
        assumptions=asdict(EXPECTED),
        versions=versions,
        warnings=tuple(notes),
    )


def _memory_gib(parts: Assembly, compiled: Compiled) -> dict[str, float]:
    state = parts.state
    split = memory_parts(
        compiled.module,
        peak=round(compiled.peak_gib * 2**30),
        parameters=local_bytes((state.params, state.frozen)),
        optimizer=local_bytes((state.opt_state, state.ema)),
    )
    return {name: size / 2**30 for name, size in asdict(split).items()}


def _mfu(config: RunConfig, parts: Assembly, tokens: int, seconds: float) -> float:
    """The share of the chips' peak that the model's FLOPs, counted as `train` does, make up."""
    devices = parts.layout.mesh.devices
    chip = find_chip(devices.flat[0].device_kind)
    assert chip is not None, devices.flat[0].device_kind
    flops = tokens * flops_per_token(config, parts)
    return flops / (seconds * chip.peak_flops * devices.size)
