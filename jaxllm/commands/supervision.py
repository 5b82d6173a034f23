"""Keeps a gang of processes alive: watches it, ends it when one fails, and starts it again.

The decisions are in `restarts`; what the processes run is the caller's. Signals to this process
are passed on once: SIGTERM and SIGHUP let the gang save and end, the first SIGINT interrupts it,
another one kills it.
"""

import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from jaxllm.commands.children import Children, Command, Lines
from jaxllm.commands.restarts import Restarts, code_when_asked, ending_words
from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_INTERRUPTED

_TICK = 0.05  # seconds between two looks at the processes
ENDING_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for the rest of a gang that failed
STOPPING_GRACE = 30.0  # seconds for a gang that was asked to save and end


def supervise(
    commands: Callable[[], Sequence[Command]],
    restarts: Restarts,
    *,
    newest_step: Callable[[], int | None],
    lines: Lines,
) -> int:
    """Run a gang until it is done, cannot work, failed too often or is stopped. The exit code.

    commands: what the processes of the next try run. newest_step: that of the run's checkpoints.
    """
    with Signals() as signals:
        while True:
            with Children(commands(), lines) as gang:
                lines.say(f"started {_processes(gang.pids)}")
                codes = _Watch(gang, signals, lines).until_ended()
            if signals.asked is not None:
                lines.say(f"ended, as {signals.asked.name} asked")
                return code_when_asked(signals.asked, codes)
            verdict = restarts.after(codes, newest_step=newest_step())
            lines.say(verdict.words)
            if verdict.exit_code is not None:
                return verdict.exit_code
            signals.pause(verdict.pause)
            if signals.asked is not None:
                lines.say(f"ended, as {signals.asked.name} asked")
                return code_when_asked(signals.asked)


class Signals:
    """Notes the signals that ask to end, instead of ending. A context manager.

    SIGHUP counts as SIGTERM, unless it was ignored, as under nohup.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        """The first signal that came."""
        self.must_kill = False
        """Whether ctrl-C came after it."""
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def pause(self, seconds: float) -> None:
        """Wait so long, or until a signal asks to end."""
        end = time.monotonic() + seconds
        while self.asked is None and (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, _TICK))

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked = signal.Signals(number)
        elif number == signal.SIGINT:
            self.must_kill = True


class _Watch:
    """One gang from its start to its end."""

    def __init__(self, gang: Children, signals: Signals, lines: Lines) -> None:
        self._gang, self._signals, self._say = gang, signals, lines.say
        self._told: set[int] = set()
        self._sent: signal.Signals | None = None
        self._terminate_at = self._kill_at = float("inf")

    def until_ended(self) -> list[int]:
        """Waits until every process has ended, and sees to it once one has failed."""
        while True:
            codes = self._gang.codes()
            self._tell_failures(codes)
            if None not in codes:
                return [code for code in codes if code is not None]
            self._pass_on()
            self._end_what_is_due()
            time.sleep(_TICK)

    def _tell_failures(self, codes: Sequence[int | None]) -> None:
        """Says which processes failed by themselves, and when the others must follow.

        One that was interrupted had the others save with it: they are about to end too.
        """
        asked_for: set[int] = set()
        if self._sent is not None:
            asked_for = {EXIT_INTERRUPTED, EXIT_CTRL_C, -self._sent, -signal.SIGKILL}
        for rank, code in enumerate(codes):
            if code and rank not in self._told and code not in asked_for:
                self._told.add(rank)
                self._say(f"process {rank} {ending_words(code)}")
                grace = ENDING_GRACE if code == EXIT_INTERRUPTED else 0.0
                self._terminate_at = min(self._terminate_at, time.monotonic() + grace)

    def _pass_on(self) -> None:
        asked = self._signals.asked
        if self._signals.must_kill:
            self._kill("killing")
        elif asked is not None and self._sent is None:
            number = signal.SIGINT if asked == signal.SIGINT else signal.SIGTERM
            self._say(f"{asked.name}: passed on to {_names(self._running())}")
            self._send(number, grace=STOPPING_GRACE)

    def _end_what_is_due(self) -> None:
        now = time.monotonic()
        if self._sent is None and now >= self._terminate_at and self._running():
            self._say(f"ending {_names(self._running())}")
            self._send(signal.SIGTERM, grace=ENDING_GRACE)
        elif now >= self._kill_at:
            self._kill("still there, so killing")

    def _send(self, number: signal.Signals, *, grace: float) -> None:
        self._sent, self._kill_at = number, time.monotonic() + grace
        self._gang.send(number)

    def _kill(self, words: str) -> None:
        """Nothing stays after this, a stopped process neither."""
        if running := self._running():
            self._say(f"{words} {_names(running)}")
        self._gang.kill()
        self._sent, self._kill_at = signal.SIGKILL, float("inf")

    def _running(self) -> list[int]:
        return [rank for rank, code in enumerate(self._gang.codes()) if code is None]


def _names(ranks: Sequence[int]) -> str:
    return f"process{'' if len(ranks) == 1 else 'es'} {', '.join(map(str, ranks))}"


def _processes(pids: Sequence[int]) -> str:
    count = "1 process" if len(pids) == 1 else f"{len(pids)} processes"
    return f"{count} (pid {', '.join(map(str, pids))})"
