"""Where the wall time of a run goes, over all its starts: the account, kept while it trains.

Each second since the first start of the run is of one kind. They are seconds of the host that
writes (the first process), told apart by what its loop does:

step            the loop trains steps that no start had done before: the productive time. The host
                dispatches, writes metrics and waits for the devices.
recomputation   the same for steps that were done before and lost, by a crash or a rollback.
data            the host waited for a batch, and when it came no step was in flight any more. For a
                part of the wait one may have been: it is an upper bound of what the devices lost,
                by at most the time of a step for each wait. Waits during which the device was busy
                to the end cost nothing and count as step (or recomputation).
compile         lowering and compiling the training step, at every start.
checkpoint      the loop stood still for saving. What is written behind running steps costs nothing
                here.
evaluation      scores and samples.
restart         what an interruption cost, recomputation and compiling aside: from the last sign of
                life of one start to the first step of the next.
other           the same work at the first start, the ending, and the time between a finished run
                and a start that makes it longer, or between a start that was refused for its
                config, or ended by it, and the next.

The records are described beside their reader.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_USAGE
from jaxllm.parallel import last_words
from jaxllm.training.goodput_records import GOODPUT_FILE, KINDS, Kind, read_earlier
from jaxllm.training.logfile import LogFile
from jaxllm.training.phases import Phase

_EVERY = 10.0  # seconds from one record to the next while the run does one thing
_SOON = 1.0  # the same where it turns to another
_LAST_WORDS = 0.5  # seconds that the last record waits for another thread's
_LONGEST = 200  # characters of a reason
_LOOP: tuple[Phase, ...] = ("step", "data")


class Goodput:
    """A listener of phases that accounts the seconds of a run. A context manager: see `end`.

    It counts from when it is made, and writes once it is opened; processes other than the first
    leave it closed. A record that cannot be written is said, never raised: its seconds go into the
    next one. Thread-safe: a thread of its own writes during long phases, and a watchdog or a signal
    handler may call `end`. Once it is open, `last_words` tells it of an end that skips all else.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds that never jump, for durations.

        wall_clock: seconds since 1970, read once, to place this start on the time line.
        """
        self._clock = clock
        self._counting = threading.RLock()  # held for microseconds
        self._writing = threading.Lock()  # held while the file is written; taken first
        self._began = self._counted = self._recorded = clock()
        self._wall_began = wall_clock()
        self._seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self._pending: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)  # not in the file yet
        self._phase: Phase = "start"
        self._starting: Kind = "restart"  # what starting and restoring count as
        self._step = self._furthest = 0
        self._is_device_busy: Callable[[], bool] = lambda: False
        self._say: Callable[[str], None] = _to_stderr
        self._log: LogFile | None = None
        self._held = b""  # a start that could not be written yet
        self._is_failing = False
        self._ended = threading.Event()

    def open(
        self,
        run_dir: Path,
        *,
        step: int,
        furthest: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Go on with the account of the run, which is at `step`; on the first process.

        furthest: a step known from elsewhere to have been finished. say: shows one line,
        on stderr if not given. Raises OSError that names the file where it cannot be opened.
        """
        path = run_dir / GOODPUT_FILE
        earlier = read_earlier(path)
        self._say, self._log = say or self._say, LogFile(path)
        self._count()
        with self._counting:
            self._step, self._furthest = step, max(step, furthest, earlier.furthest)
            ending = earlier.ending
            if ending is not None and "phase" in ending and furthest > earlier.furthest:
                ending = {"phase": "step"}  # it trained on after its last record
            if not earlier.is_interrupted:
                self._starting = "other"
                for seconds in (self._seconds, self._pending):
                    seconds["other"] += seconds["restart"]
                    seconds["restart"] = 0.0
            # Of clocks that disagree, the later: no span of the time line is negative.
            began = max(self._wall_began, earlier.time or self._wall_began)
            gap = began - (earlier.time or began)
            self._wall_began = began
            for kind, spent in earlier.seconds.items():
                self._seconds[kind] += spent
            self._seconds[self._starting] += gap
        self._append(
            {
                "event": "start",
                "time": round(began, 3),
                "step": step,
                "furthest": self._furthest,
                "before": ending,
                "seconds": {self._starting: round(gap, 3)} if gap else {},
            }
        )
        last_words.before_end(self.end)
        threading.Thread(target=self._beat, daemon=True, name="goodput").start()

    def watch_device(self, is_busy: Callable[[], bool]) -> None:
        """`is_busy`: whether a step is in flight; asked at the end of each wait for data."""
        self._is_device_busy = is_busy

    def entered(self, phase: Phase) -> None:
        """The run does `phase` from now on."""
        with self._counting:
            self._count()
            is_in_loop = phase in _LOOP and self._phase in _LOOP
            self._phase = phase
            if phase == "step":
                self._starting = "restart"  # whatever is restored now, something was lost
        self._write_after(_EVERY if is_in_loop else _SOON)

    def stepped(self, step: int) -> None:
        """Every step up to `step` is finished; one that was before is a recomputation."""
        with self._counting:
            self._step = step - 1
            self._count()
            self._step, self._furthest = step, max(step, self._furthest)

    def went_back(self, from_step: int, to_step: int) -> None:
        """The run has done `from_step` and goes on from `to_step`, of an earlier checkpoint."""
        with self._counting:
            self._count()
            self._step, self._furthest = from_step, max(from_step, self._furthest)
        self._write("rollback", patience=_LAST_WORDS, phase=self._phase, to=to_step)
        with self._counting:
            self._step = to_step

    @property
    def seconds(self) -> dict[Kind, float]:
        """The wall time since the first start of the run, by kind."""
        with self._counting:
            self._count()
            return dict(self._seconds)

    def figures(self) -> dict[str, float]:
        """`goodput`: the share of the wall time that went into productive steps."""
        seconds = self.seconds
        return {"goodput": seconds["step"] / max(sum(seconds.values()), 1e-9)}

    def end(self, code: int | None, reason: str) -> None:
        """Say how this start ends; the first of several calls counts. Waits half a second at most
        where another thread is writing."""
        with self._counting:
            if self._ended.is_set():
                return
            self._ended.set()
            self._count()
        last_words.forget(self.end)
        self._write("end", patience=_LAST_WORDS, code=code, reason=reason[:_LONGEST])

    def __enter__(self) -> "Goodput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Ends it, unless that was done: as done, or by what was raised."""
        if error is None:
            self.end(0, "done")
        elif isinstance(error, KeyboardInterrupt):
            self.end(EXIT_CTRL_C, "ctrl-C")
        else:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self.end(EXIT_USAGE if isinstance(error, ValueError) else None, text)

    def beat(self) -> None:
        """Count up to now, and write where that is due: a sign of life from a long phase."""
        self._count()
        self._write_after(_EVERY)

    def _beat(self) -> None:
        while not self._ended.wait(_EVERY):
            self.beat()

    def _count(self) -> None:
        """Account the seconds up to now to what the run does."""
        with self._counting:
            now = self._clock()
            spent, self._counted = now - self._counted, now
            kind = self._kind()
            self._seconds[kind] += spent
            self._pending[kind] += spent

    def _kind(self) -> Kind:
        match self._phase:
            case "compile" | "checkpoint" | "evaluation":
                return self._phase
            case "start" | "restore":
                return self._starting
            case "end":
                return "other"
            case "data" if not self._is_device_busy():
                return "data"
        return "recomputation" if self._step < self._furthest else "step"

    def _write_after(self, seconds: float) -> None:
        if self._counted - self._recorded >= seconds and not self._ended.is_set():
            self._write("spans", phase=self._phase)

    def _write(self, event: str, *, patience: float = 0.0, **fields: Any) -> None:
        """Write what is pending, if the file is open and within `patience` no other thread's."""
        if not self._writing.acquire(timeout=patience):
            return
        try:
            if self._log is None:
                return
            with self._counting:
                seconds = {k: round(v, 3) for k, v in self._pending.items() if v >= 0.0005}
                self._recorded = self._counted
                at = round(self._wall_began + self._counted - self._began, 3)
                record = {"event": event, "time": at, "step": self._step, **fields}
            if self._append({**record, "seconds": seconds}):
                with self._counting:  # what rounding left is written later
                    for kind, written in seconds.items():
                        self._pending[kind] -= written
            if event == "end":
                self._log.close()
                self._log = None
        finally:
            self._writing.release()

    def _append(self, record: dict[str, Any]) -> bool:
        assert self._log is not None
        lines = self._held + json.dumps(record).encode() + b"\n"
        try:
            self._log.append(lines)
        except OSError as error:
            if record["event"] == "start":
                self._held = lines
            if not self._is_failing:
                why = f"{os.strerror(error.errno or 0)}: {error.filename}"
                self._say(f"where the time goes is not written for now: {why}")
            self._is_failing = True
            return False
        self._held, self._is_failing = b"", False
        return True


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
