"""Signals that ask a run to stop: at once before its loop, between steps within it."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

EXIT_INTERRUPTED, EXIT_CTRL_C = 75, 130

_PATIENCE = 1.0  # seconds

_ending = threading.Lock()


def exit_on_sigterm() -> None:
    """Until a loop takes over: SIGTERM ends the process at once with code 75.

    Nothing is raised, for it would be raised inside whatever runs, callbacks that swallow it
    included; and a thread notices the signal while compiled code holds the main thread.
    """
    if signal.getsignal(signal.SIGTERM) is _end:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="sigterm").start()
    signal.signal(signal.SIGTERM, _end)


def _watch(reader: int) -> None:
    """Ends the process at a SIGTERM that no one else has taken over."""
    while numbers := os.read(reader, 64):
        if signal.SIGTERM in numbers and signal.getsignal(signal.SIGTERM) is _end:
            _end(signal.SIGTERM, None)


def _end(number: int, frame: FrameType | None) -> None:
    """What both the handler and the thread do; whoever is second waits for the first to end it."""
    if not _ending.acquire(blocking=False):
        # Nothing runs on meanwhile, nor for ever, should the first wait for what this one holds.
        time.sleep(_PATIENCE)
        os._exit(EXIT_INTERRUPTED)
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
        with suppress(OSError, RuntimeError, ValueError):  # a closed pipe, a write under way
            sys.stdout.write("\x1b[?25h" if sys.stdout.isatty() else "")  # a bar hides the cursor
            sys.stdout.flush()
        print("interrupted: run the same command again", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_INTERRUPTED)


class StopRequest:
    """Turns SIGTERM and the first ctrl-C into a flag; the second ctrl-C interrupts at once.

    A context manager around the loop. With several processes JAX's own notifier has SIGTERM and
    lets all processes stop at the same step; ctrl-C, which no one agrees on, interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        import jax

        wanted = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        for number in wanted:
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def is_set(self, step: int) -> bool:
        """Whether to stop after step `step`; the same answer on every process."""
        import jax

        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after ctrl-C, 75 after SIGTERM: run the same command again."""
        assert self.signal is not None
        return EXIT_CTRL_C if self.signal == signal.SIGINT else EXIT_INTERRUPTED

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
