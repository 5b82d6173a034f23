"""Signals that ask a run to stop, noticed between steps."""

import signal
import sys
from types import FrameType

import jax


def exit_on_sigterm() -> None:
    """Until a loop takes over: SIGTERM ends the process with code 75, since nothing is lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))


class StopRequest:
    """Turns SIGTERM and the first ctrl-C into a flag; the second ctrl-C interrupts at once.

    A context manager around the loop. With several processes JAX's own notifier has SIGTERM and
    lets all processes stop at the same step; ctrl-C, which no one agrees on, interrupts at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        wanted = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else ()
        for number in wanted:
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def is_set(self, step: int) -> bool:
        """Whether to stop after step `step`; the same answer on every process."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(step):
                self.signal = signal.SIGTERM
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after ctrl-C, 75 after SIGTERM: run the same command again."""
        assert self.signal is not None
        return 130 if self.signal == signal.SIGINT else 75

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
