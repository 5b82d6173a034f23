"""Candidates of a plan, each compiled by a process of its own, and their results on disk."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from jaxllm.aot.search_cache import ResultCache, source_hash
from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_space import Candidate
from jaxllm.aot.topology import Topology, compiler_versions
from jaxllm.config import RunConfig, dump_yaml, parse_config
from jaxllm.data.workers import num_cores
from jaxllm.exit_codes import EXIT_INTERRUPTED

FIRST_COMPILE_SECONDS = 120.0  # what the first is expected to take; later ones go by it
_REFUSED = 2  # exit code of a config that cannot work
_COMPILE_GIB = 4  # of host memory, that a compile takes at most


def num_workers() -> int:
    """Compiles at a time: one a core, as far as the memory reaches."""
    memory = psutil.virtual_memory().available / 2**30
    return max(1, min(num_cores(), int(memory / _COMPILE_GIB)))


def with_candidate(config: RunConfig, candidate: Candidate) -> RunConfig:
    """The config, run as the candidate says."""
    raw = config.model_dump(mode="json")
    set_candidate(raw, candidate)
    return parse_config(raw, origin="the planned config")


def set_candidate(raw: dict[str, Any], candidate: Candidate) -> None:
    """Write the candidate's keys into a config's nested dict."""
    for path, value in candidate.overrides().items():
        # Names of compiler options have no dots.
        *sections, key = path.split(".")
        inner = raw
        for section in sections:
            if inner.get(section) is None:
                inner[section] = {}
            inner = inner[section]
        inner[key] = value


def result_cache(config: RunConfig, topology: Topology, *, vocab_size: int) -> ResultCache:
    """The results of this config on this slice, whatever its layout says now."""
    folder = None if config.plan_cache is None else Path(config.plan_cache).expanduser()
    model = config.model.model_dump(mode="json", exclude={"remat", "offload"})
    libraries = {name: metadata.version(name) for name in ("flax", "optax")}
    return ResultCache(
        folder,
        {
            "model": model | {"vocab_size": config.model.padded_vocab_size(vocab_size)},
            "objective": config.objective.model_dump(mode="json"),
            "optim": config.optim.model_dump(mode="json"),
            "ema": config.training.ema and config.training.ema.model_dump(mode="json"),
            "batch": [config.data.global_batch_size, config.data.sequence_length],
            "xla_flags": config.xla_flags,
            "topology": [topology.name, topology.num_slices],
            "versions": compiler_versions() | libraries | {"jaxllm": source_hash()},
        },
    )


class StepCompiler:
    """Compiles candidates of one config on one slice, `num_workers` at a time, as `compile` does.

    seconds: how long each took here. Used in a `with`, whose end stops what still compiles; within
    it SIGTERM raises SystemExit(75), so that no compile outlives this process.
    """

    def __init__(self, config: RunConfig, topology: Topology, cache: ResultCache, num_workers: int):
        self._config, self._topology, self._cache = config, topology, cache
        self._threads = ThreadPoolExecutor(num_workers)
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._is_stopped = threading.Lock(), False
        self._handler: Any = None
        self.seconds: list[float] = []

    def submit(self, candidate: Candidate) -> Future[Outcome]:
        """Begin to compile. A step that does not fit, or fails to compile, is a result too."""
        return self._threads.submit(self._compile, candidate)

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; one from outside Python could not be put back.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGTERM) is not None:
            self._handler = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._lock:
                self._is_stopped = True
                for process in self._processes:
                    process.kill()
            self._threads.shutdown(cancel_futures=True)
        finally:
            if self._handler is not None:
                signal.signal(signal.SIGTERM, self._handler)

    def _compile(self, candidate: Candidate) -> Outcome:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="jaxllm-plan-") as name:
            config, report = Path(name) / "config.yaml", Path(name) / "report.json"
            written = dump_yaml(with_candidate(self._config, candidate))
            config.write_text(written, encoding="utf-8")
            code, said = self._run(config, report)
            if report.is_file():
                found = json.loads(report.read_text(encoding="utf-8"))
                outcome = Outcome(candidate, found)
            else:
                outcome = Outcome(candidate, None, _last_words(said, code))
        self.seconds.append(time.monotonic() - begin)
        # A config that is refused always will be; whatever else went wrong may be the machine's.
        if outcome.report is not None or code == _REFUSED:
            self._cache.store(outcome)
        return outcome

    def _run(self, config: Path, report: Path) -> tuple[int, str]:
        """The exit code of `jaxllm compile`, and what it wrote to stderr."""
        options = ("--topology", self._topology.name, "--slices", str(self._topology.num_slices))
        command = [*_JAXLLM, "compile", str(config), *options, "--json", str(report)]
        with self._lock:
            if self._is_stopped:
                return -1, "stopped"
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "TMPDIR": str(report.parent)},  # so that they go if it is killed
                start_new_session=True,  # ctrl-C is for the parent, which stops its children
            )
            self._processes.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._processes.discard(process)
        return process.returncode, said


def _leave(number: int, frame: FrameType | None) -> None:
    """Unwind as after ctrl-C. Further SIGTERMs, as `timeout` sends, must not interrupt that."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(EXIT_INTERRUPTED)


_JAXLLM = (sys.executable, "-m", "jaxllm.cli")


def _last_words(said: str, code: int) -> str:
    """The line of stderr that says why there is no report."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("error:") or "Error: " in line:
            return line.removeprefix("error: ")
    return lines[-1] if lines else f"the compiler's process ended with code {code}"


def budget_left(
    minutes: float, seconds: list[float], *, first_seconds: float, clock: Callable[[], float]
) -> Callable[[], bool]:
    """Whether a compile that begins now may end in time.

    minutes: from now. seconds: what compiles took, read anew each time. first_seconds: what the
    first is expected to take.
    """
    deadline = clock() + 60 * minutes

    def may_start() -> bool:
        typical = sum(seconds) / len(seconds) if seconds else first_seconds
        return clock() + typical <= deadline

    return may_start
