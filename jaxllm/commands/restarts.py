"""Whether a gang of processes that ended is started again. It decides; it starts and reads nothing.

A gang is the processes of one run. The exit code of a process is as `subprocess` has it: below
zero it is the signal that killed the process.
"""

import signal
from collections.abc import Sequence
from typing import NamedTuple

from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE

_FIRST_PAUSE = 1.0  # seconds; doubled by each try that got no further


class Verdict(NamedTuple):
    """What follows from the end of a gang."""

    exit_code: int | None
    """The exit code of the whole, or None: start the gang again."""
    pause: float
    """Seconds to wait before that."""
    words: str
    """The verdict for a person."""


class Restarts:
    """Counts the tries in a row that got no further, and says when it is enough.

    Only a newer checkpoint is progress: what a try computes beyond it is lost with the try.
    """

    def __init__(
        self, *, max_restarts: int = 10, max_backoff: float = 60.0, newest_step: int | None = None
    ) -> None:
        """max_backoff: longest pause in seconds. newest_step: of the checkpoints before any try."""
        self._max_restarts = max_restarts
        self._max_backoff = max_backoff
        self._newest = newest_step
        self._tries = 0

    def after(self, codes: Sequence[int], *, newest_step: int | None) -> Verdict:
        """The verdict on a gang that ended by itself with `codes`, one for each process.

        newest_step: the step of the newest checkpoint by now, None if there is none.
        """
        if not any(codes):
            return Verdict(0, 0.0, "all processes ended with code 0")
        if EXIT_USAGE in codes:
            return Verdict(EXIT_USAGE, 0.0, "the command cannot work as it was given; ending")
        if EXIT_CTRL_C in codes:
            return Verdict(EXIT_CTRL_C, 0.0, "interrupted by ctrl-C; ending")
        if newest_step is not None and (self._newest is None or newest_step > self._newest):
            self._newest, self._tries = newest_step, 0
        if self._tries >= self._max_restarts:
            return Verdict(_worst(codes), 0.0, self._giving_up())
        pause = min(_FIRST_PAUSE * 2.0**self._tries, self._max_backoff)
        self._tries += 1
        words = f"restarting in {pause:g} s (try {self._tries} of {self._max_restarts})"
        return Verdict(None, pause, words)

    def _giving_up(self) -> str:
        where = "any checkpoint" if self._newest is None else f"a checkpoint after {self._newest}"
        tries = "1 restart" if self._tries == 1 else f"{self._tries} restarts"
        return f"giving up: {tries} without {where}"


def _worst(codes: Sequence[int]) -> int:
    """75 if nothing but interruptions happened, which the same command goes on from; else 1."""
    return EXIT_INTERRUPTED if set(codes) <= {0, EXIT_INTERRUPTED} else EXIT_FAILED


def code_when_asked(asked: int, codes: Sequence[int] = ()) -> int:
    """The exit code of a gang that was asked to end by the signal `asked`.

    codes: those of its processes, if it was running.
    """
    if codes and not any(codes):
        return 0  # it was complete before the signal could matter
    if EXIT_USAGE in codes:
        return EXIT_USAGE
    return EXIT_CTRL_C if asked == signal.SIGINT else EXIT_INTERRUPTED


def ending_words(code: int) -> str:
    """How a process ended, for a person."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:  # a real-time signal
        name = ""
    return f"ended with signal {-code}{name}"
