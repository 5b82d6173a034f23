"""Ends a run that does not get on: a process that is stopped, or data that never come."""

import faulthandler
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from pydantic import PositiveFloat

from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.parallel import lifeline
from jaxllm.parallel.last_words import end, end_within, say
from jaxllm.schema import Config
from jaxllm.training.heartbeat import Heartbeat

_TICKS = 20  # looks within the limit
_LONGEST_TICK = 1.0  # seconds
_STOPPED = 10  # ticks after which it was this process itself that did not run
_TO_SPEAK = 10.0  # seconds
_STDERR = 2


class WatchdogConfig(Config):
    """When a run without progress is ended, so that it can be started again."""

    limit: PositiveFloat | None = 1800.0
    """Seconds that a step, a batch of an evaluation, its tasks or a save may take; null is for
    ever."""
    start_limit: PositiveFloat | None = 3600.0
    """Seconds that restoring, compiling or anything else before the first step may take; null is
    for ever."""

    def build(
        self,
        run_dir: Path | None,
        *,
        on_end: Callable[[int, str], None] = lambda code, reason: None,
    ) -> "Watchdog":
        """run_dir: where the heartbeat is written; None on all processes but the first.

        on_end: told the exit code and the reason before the process ends; any thread may call it.
        """
        return Watchdog(self, run_dir, on_end=on_end)


class Watchdog:
    """A context manager around what must get on; a listener of `Phases`.

    Past its limit it prints the stacks of all threads, tells the other processes, and ends this
    one with code 75. Time in which this process itself was stopped, or its machine slept, does not
    count, and what was waited for before it is forgiven.
    """

    def __init__(
        self,
        config: WatchdogConfig,
        run_dir: Path | None = None,
        *,
        on_end: Callable[[int, str], None] = lambda code, reason: None,
    ) -> None:
        self._config = config
        self._on_end = on_end
        self._step: int | None = None
        self._doing = "start"
        self._count = 0  # of signs of progress; written by one thread, read by another
        self._closed = threading.Event()
        self._heartbeat = None if run_dir is None else Heartbeat(run_dir)
        self._stack = ExitStack()

    def __enter__(self) -> "Watchdog":
        if self._heartbeat is not None:
            self._stack.enter_context(self._heartbeat)
        threading.Thread(target=self._run, daemon=True, name="watchdog").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._stack.close()

    def progress(self, what: str) -> None:
        """Something has got on: `what` is done next, or has been done."""
        self._doing = what
        self._count += 1
        if self._heartbeat is not None:
            self._heartbeat.beat(self._step, what)

    def entered(self, phase: str) -> None:
        """The run does `phase` from now on."""
        self.progress(phase)

    def stepped(self, step: int) -> None:
        """Every step up to `step` is finished."""
        self._step = step
        self.progress(self._doing)

    def _limit(self) -> tuple[float, str]:
        """Seconds, and the key that sets them."""
        key = "start_limit" if self._step is None else "limit"
        return getattr(self._config, key) or math.inf, f"training.watchdog.{key}"

    def _run(self) -> None:
        limits = filter(None, (self._config.limit, self._config.start_limit))
        tick = min([_LONGEST_TICK, *(limit / _TICKS for limit in limits)])
        seen, idle, last = self._count, 0.0, time.monotonic()
        while not self._closed.wait(tick):
            now = time.monotonic()
            passed, last = now - last, now
            is_forgiven = self._count != seen or passed > _STOPPED * tick
            idle = 0.0 if is_forgiven else idle + passed
            seen = self._count
            if idle > self._limit()[0]:
                self._end()

    def _end(self) -> None:
        seconds, key = self._limit()
        after = "before the first step" if self._step is None else f"after step {self._step}"
        reason = f"no progress for {seconds:g} s ({key}) in {self._doing!r}, {after}"
        end_within(_TO_SPEAK, EXIT_INTERRUPTED)  # stderr may be a pipe that nobody reads
        say(f"{reason}; the stacks of all threads:")
        faulthandler.dump_traceback(file=_STDERR, all_threads=True)
        self._on_end(EXIT_INTERRUPTED, reason)
        lifeline.report(EXIT_INTERRUPTED, reason)
        end(EXIT_INTERRUPTED, "leaving so that the run can be started again")
