"""A lowered program given to the TPU compiler, and what comes back, be it too large."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from jaxllm.aot.hlo import Module, parse_hlo
from jaxllm.aot.memory import Buffer, largest_buffers, read_shortage


@dataclass(frozen=True)
class Compiled:
    """A compiled program. peak_gib, limit_gib: HBM on one device; host_gib: host memory.

    text, module: the scheduled program; buffers: its largest temporaries. Where the program does
    not fit, the module is of before the compiler gave up and says nothing of time, or is None.
    """

    fits: bool
    peak_gib: float
    limit_gib: float
    host_gib: float
    text: str
    module: Module | None
    buffers: tuple[Buffer, ...]
    seconds: float


def compile_lowered(
    lowered: jax.stages.Lowered, options: Mapping[str, Any], *, limit_gib: float
) -> Compiled:
    """Compile. A program that needs too much HBM is a result, any other refusal an error.

    options: compiler options. limit_gib: HBM that a program may use.
    """
    with tempfile.TemporaryDirectory(prefix="jaxllm-compile-") as name:
        # Only in these files does the compiler describe a program that does not fit.
        dumped = {**options, "xla_dump_to": name}
        begin = time.perf_counter()
        try:
            compiled = lowered.compile(compiler_options=dumped)
        except jax.errors.JaxRuntimeError as error:
            shortage = read_shortage(str(error))
            if shortage is None:
                _explain(error)
                raise
            elapsed = time.perf_counter() - begin
            text, module, buffers = _read_dump(Path(name))
            return Compiled(False, *shortage, 0.0, text, module, buffers, elapsed)
        elapsed = time.perf_counter() - begin
        _, _, buffers = _read_dump(Path(name))
    memory = compiled.memory_analysis()
    assert memory is not None, "the TPU compiler says what memory a program takes"
    peak_gib = memory.peak_memory_in_bytes / 2**30
    text = compiled.as_text()
    assert text is not None, "the TPU compiler shows its programs"
    return Compiled(
        fits=peak_gib <= limit_gib,
        peak_gib=peak_gib,
        limit_gib=limit_gib,
        host_gib=(memory.host_argument_size_in_bytes + memory.host_temp_size_in_bytes) / 2**30,
        text=text,
        module=parse_hlo(text),
        buffers=buffers,
        seconds=elapsed,
    )


def _read_dump(folder: Path) -> tuple[str, Module | None, tuple[Buffer, ...]]:
    """The scheduled program and its largest buffers, from the compiler's files if there are any."""
    texts = sorted(folder.glob("*after_optimizations.txt"), key=_size)
    if not texts:
        return "", None, ()
    text = texts[-1].read_text(encoding="utf-8")
    module = parse_hlo(text)
    assigned = sorted(folder.glob("*after_optimizations-buffer-assignment.txt"), key=_size)
    if not assigned:
        return text, module, ()
    return text, module, largest_buffers(module, assigned[-1].read_text(encoding="utf-8"))


def _explain(error: jax.errors.JaxRuntimeError) -> None:
    """ValueError where the compiler refuses what it was asked for, rather than fails."""
    reason = str(error).splitlines()[0]
    if reason.startswith(("FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNIMPLEMENTED")):
        raise ValueError(
            f"the TPU compiler refuses this step: {reason}\n"
            "if an option of xla_flags is named, take it out; else try another layout"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size
