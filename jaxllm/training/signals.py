"""Signals that ask a run to stop: at once before its loop, between steps within it."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_INTERRUPTED
from jaxllm.parallel import preemption
from jaxllm.parallel.last_words import end, say

LAST_WORDS = "interrupted: run the same command again"

_PATIENCE = 1.0  # seconds
_NO_SIGNAL = 0

_wakeup: int | None = None
"""Where the system writes the number of each signal; None as long as nobody reads it."""
_loop: "StopRequest | None" = None
_is_read = threading.Event()


def exit_on_sigterm() -> None:
    """Until a loop takes over: SIGTERM ends the process at once with code 75.

    Nothing is raised, for it would be raised inside whatever runs, callbacks that swallow it
    included; and a thread notices the signal while compiled code holds the main thread.
    """
    global _wakeup
    if _wakeup is None:
        reader, _wakeup = os.pipe()
        os.set_blocking(_wakeup, False)
        signal.set_wakeup_fd(_wakeup, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader,), daemon=True, name="sigterm").start()
    signal.signal(signal.SIGTERM, _end)


def _watch(reader: int) -> None:
    """Takes each SIGTERM to the loop, or ends the process if no one else has taken it over."""
    while numbers := os.read(reader, 64):
        if signal.SIGTERM in numbers:
            if _loop is not None:
                _loop.note(signal.SIGTERM)
            elif signal.getsignal(signal.SIGTERM) is _end:
                _end(signal.SIGTERM, None)
        if _NO_SIGNAL in numbers:
            _is_read.set()


def _wait_for_watch() -> None:
    """Until the thread has taken all signals that have come so far to the loop."""
    if _wakeup is not None:
        _is_read.clear()
        os.write(_wakeup, bytes([_NO_SIGNAL]))
        _is_read.wait(_PATIENCE)


def _end(number: int, frame: FrameType | None) -> None:
    """What both the handler and the thread do; whoever is second waits for the first to end it."""
    if _loop is not None:  # a library's handler calls the one that was there before it
        _loop.note(number)
    else:
        end(EXIT_INTERRUPTED, LAST_WORDS, reason=signal.Signals(number).name)


class StopRequest:
    """Turns SIGTERM and the first ctrl-C into a flag; the second ctrl-C interrupts at once.

    A context manager around the loop. Further SIGTERMs change nothing: the save goes on, and a
    save that hangs is the watchdog's matter. With several processes a SIGTERM to any of them stops
    all at the same step; ctrl-C, which no one agrees on, interrupts at once.

    A handler of SIGTERM that a library puts in place of this one is noticed at the next step. It
    is called too, but once the run is saved, for it may end the process.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._foreign: list[Any] = []
        self._is_alone = True
        self._has_sigterm = False
        self._handler = self._take  # one object, to be found again

    def __enter__(self) -> "StopRequest":
        global _loop
        import jax

        self._is_alone = jax.process_count() == 1
        if self._is_alone:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._handler)
        found = self._previous[signal.SIGTERM] = preemption.take_sigterm(self._handler)
        if callable(found) and found is not _end:  # put there while the run was starting
            self._remember(found)
        _loop = self
        return self

    def __exit__(self, *_: object) -> None:
        global _loop
        self._take_back()
        _wait_for_watch()
        for number, handler in self._previous.items():
            # None is a handler that Python did not install and cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self._has_sigterm:
            for handler in filter(callable, self._foreign):
                with suppress(SystemExit):  # the process ends anyway, with a code that says why
                    handler(signal.SIGTERM, None)
        _loop = None

    def is_set(self) -> bool:
        """Whether to stop here; the same answer on every process, which all ask as often."""
        self._take_back()
        if not self._is_alone and preemption.is_reached():
            self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after ctrl-C, 75 after SIGTERM: run the same command again."""
        assert self.signal is not None
        return EXIT_CTRL_C if self.signal == signal.SIGINT else EXIT_INTERRUPTED

    def note(self, number: int) -> None:
        """A signal has come; from any thread, and any number of times."""
        self._has_sigterm |= number == signal.SIGTERM
        if self._is_alone:
            self.signal = signal.Signals(number)
        else:  # this process goes on until the step that all agree on
            preemption.notify()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.note(number)

    def _take_back(self) -> None:
        """Where SIGTERM has another handler than this one's, puts it back."""
        found = signal.getsignal(signal.SIGTERM)
        if found is not self._handler:
            signal.signal(signal.SIGTERM, self._handler)
            self._remember(found)

    def _remember(self, found: Any) -> None:
        """Keeps a library's handler, and says once whose it is."""
        if found in self._foreign:
            return
        self._foreign.append(found)
        if not callable(found):
            name = getattr(found, "name", found)
            say(f"warning: something has set the handler of SIGTERM to {name}; it is taken back")
            return
        named = found if hasattr(found, "__qualname__") else type(found)
        say(
            f"warning: {named.__module__}.{named.__qualname__} has taken SIGTERM; "
            "the run is saved first, and then it is called"
        )
