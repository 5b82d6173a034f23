"""The metrics of a run: one record at a time, to metrics.jsonl and whatever else listens.

A record is a flat mapping with `step` (an int). Training records hold `loss` (nats per token, or
what the objective's `loss_unit` says), `learning_rate`, `gradient_norm`, `tokens_per_second` (since
the last record, or over half a second of training where that is longer) and more; evaluation
records hold `validation_loss`, `validation_bits_per_byte` and, for each named set,
`validation/NAME/loss`; sample records hold `sample` and `prompt`. Every sink uses these names as
they are.

metrics.jsonl has one JSON object a line. Floats are written so that they read back equal, bit for
bit. JSON has no NaN and no infinities: they are the strings "NaN", "Infinity" and "-Infinity", as
in the JSON form of protocol buffers, which Python's `float()` and JavaScript's `Number()` read.

Not thread-safe: one thread writes the metrics.
"""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from pydantic import Field

from jaxllm.schema import Config
from jaxllm.training.logfile import LogFile, replace_file
from jaxllm.training.tensorboard import EventFile, cut_back_events
from jaxllm.training.trackers import LoggerConfig

METRICS_FILE = "metrics.jsonl"
SKIPPED_FILE = "skipped.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

_TAIL = 1 << 18  # bytes at the end of metrics.jsonl that hold its last records


class Sink(Protocol):
    """Where records go."""

    def write(self, record: Mapping[str, Any]) -> None: ...

    def text(self, step: int, *, sample: str, prompt: str) -> None: ...

    def close(self) -> None: ...


class MetricsConfig(Config):
    """Where the metrics of a run go, besides metrics.jsonl."""

    log_every: int = Field(default=1, ge=1)
    """Steps from one training record to the next."""
    tensorboard: bool = True
    """Whether to write TensorBoard event files under tensorboard/ in the run folder."""
    loggers: tuple[LoggerConfig, ...] = ()
    """Experiment trackers that receive every record too."""
    on_error: Literal["stop", "continue"] = "stop"
    """What the run does when metrics.jsonl or TensorBoard files cannot be written or sent to the
    bucket (a full disk, or errors that stay when tried again): stop, or continue without them until
    they can be."""

    def build(
        self,
        run_dir: Path,
        run_config: Mapping[str, Any],
        *,
        say: Callable[[str], None] | None = None,
    ) -> "MetricsWriter":
        """Opens every sink; one process of a run does this, after `cut_back`.

        run_config: the resolved config as plain values, for the trackers to show. say: shows one
        line, on stderr if not given. Raises ValueError for a tracker that is not installed, OSError
        that names a file that cannot be opened.
        """
        # Trackers first: a missing package must not leave files behind.
        trackers = [logger.build(run_dir, run_config) for logger in self.loggers]
        files: list[Sink] = [JsonLines(run_dir / METRICS_FILE)]
        if self.tensorboard:
            files.append(EventFile(run_dir / TENSORBOARD_FOLDER))
        if self.on_error == "continue":
            files = [Dispensable(files, say=say or _to_stderr)]
        return MetricsWriter([*files, *trackers])


class MetricsWriter:
    """Gives each record to every sink. A context manager that closes them."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one record of `step` and numbers, which may be 0-d arrays on the host.

        Raises OSError that names the file that cannot be written, unless `on_error` is continue.
        """
        assert "step" in record
        plain = {key: _plain(value) for key, value in record.items()}
        for sink in self._sinks:
            sink.write(plain)

    def text(self, step: int, *, sample: str, prompt: str = "") -> None:
        """Writes a generated text and the prompt that it continues."""
        for sink in self._sinks:
            sink.text(step, sample=sample, prompt=prompt)

    def close(self) -> None:
        """Closes every sink, also when one of them fails; trackers wait until all is sent."""
        with ExitStack() as stack:
            for sink in reversed(self._sinks):
                stack.callback(sink.close)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class JsonLines:
    """metrics.jsonl: each record is in the file when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._log = LogFile(path)

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one line."""
        line = json.dumps({key: json_value(value) for key, value in record.items()})
        self._log.append(line.encode() + b"\n")

    def text(self, step: int, *, sample: str, prompt: str) -> None:
        """Appends a sample record."""
        self.write({"step": step, "prompt": prompt, "sample": sample})

    def close(self) -> None:
        """Closes the file."""
        self._log.close()


class Dispensable:
    """Files that a run goes on without while they cannot be written.

    A record is missing from the files that failed, whole. The first failure is said, and that all
    is well again, with the number of records missing.
    """

    def __init__(self, files: Sequence[Sink], *, say: Callable[[str], None]) -> None:
        self._files = tuple(files)
        self._say = say
        self._missing = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Adds `record` to the files that can be written."""
        self._add([partial(file.write, record) for file in self._files])

    def text(self, step: int, *, sample: str, prompt: str) -> None:
        """Adds a sample to the files that can be written."""
        writes = [partial(file.text, step, sample=sample, prompt=prompt) for file in self._files]
        self._add(writes)

    def close(self) -> None:
        """Closes the files, and says how many records are missing if they cannot be written yet."""
        if self._missing:
            self._say(f"metrics: {self._missing:,} records up to the end are missing")
        for file in self._files:
            try:
                file.close()
            except OSError as error:
                self._say(f"metrics may be incomplete: {error}")

    def _add(self, writes: Sequence[Callable[[], None]]) -> None:
        failed: OSError | None = None
        for write in writes:
            try:
                write()
            except OSError as error:
                failed = failed or error
        if failed is not None:
            if not self._missing:
                why = f"{os.strerror(failed.errno or 0)}: {failed.filename}"
                self._say(f"metrics are not written, and the run goes on without them: {why}")
            self._missing += 1
        elif self._missing:
            self._say(f"metrics are written again; {self._missing:,} records are missing")
            self._missing = 0


def last_step(run_dir: Path) -> int:
    """The last step with a whole record in metrics.jsonl; 0 without any."""
    path = run_dir / METRICS_FILE
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().splitlines(keepends=True)
    steps = [0]
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):
            steps.append(int(json.loads(line)["step"]))
    return max(steps)


def cut_back(run_dir: Path, step: int) -> None:
    """Drops what comes after `step`, and torn last records, from all files of records of a run.

    These are metrics.jsonl, skipped.jsonl (the skipped steps) and those of tensorboard/.

    Call it with the restored step before a run goes on; with -1 before it starts over, since the
    records of step 0 will be written again. Each file is replaced at once, so a crash in between
    leaves the old or the new one, and calling again finishes the work. Raises ValueError that
    names the line of a damaged record.
    """
    for path in (run_dir / METRICS_FILE, run_dir / SKIPPED_FILE):
        if path.exists():
            content = path.read_bytes()
            kept = b"".join(line for line, at in _lines(path, content) if at <= step)
            if kept != content:
                replace_file(path, kept)
    cut_back_events(run_dir / TENSORBOARD_FOLDER, step)


def _lines(path: Path, content: bytes) -> list[tuple[bytes, int]]:
    """The complete lines of a file of records with their steps; a torn last line is left out."""
    lines = content.splitlines(keepends=True)
    steps = []
    for number, line in enumerate(lines, start=1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError
            steps.append((line, int(json.loads(line)["step"])))
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}: not a JSON object with a step: {line[:80]!r}. "
                "Repair or remove that line, then run the same command again."
            ) from error
    return steps


def _plain(value: Any) -> bool | int | float | str:
    """`value` as a Python number or string; a 0-d array of float32 is widened exactly."""
    if isinstance(value, bool | int | float | str):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def json_value(value: Any) -> Any:
    """A value as JSON holds it: NaN and the infinities as strings, all else unchanged."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
