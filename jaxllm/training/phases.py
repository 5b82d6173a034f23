"""What a run is doing right now, told to those who keep account of it or watch over it.

    phases = Phases(goodput, watchdog)          # in "start"
    with phases.during("compile"): ...
    phases.begin_steps()                        # the loop
    for batch in phases.waiting(batches):       # in "data" while it waits
        ...
        with phases.during("evaluation"): ...   # then "step" again
    phases.end()

All of it is host time. The device works on its own: it is busy during "step" while a step is in
flight, and may be busy during "data" and "checkpoint" as well. A call costs a few microseconds
and never touches a device.

Not thread-safe: one thread, the one of the loop, tells the phases. `current` may be read anywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, TypeVar

Phase = Literal["start", "restore", "compile", "step", "data", "checkpoint", "evaluation", "end"]
"""What the host does.

start: joining, opening data, building (imports, as far as they come after the first line of the
command); restore: reading a checkpoint or making the first state; compile: lowering and compiling
the step; step: the loop but for what follows; data: waiting for the next batch; checkpoint: saving,
as far as the loop waits for it; evaluation: scores and samples, their own compiling included; end:
what comes after the last step, such as the summary.
"""

Item = TypeVar("Item")


class Listener(Protocol):
    """Hears what the run does. Called in the loop: it must return at once."""

    def entered(self, phase: Phase) -> None:
        """The run does `phase` from now on."""

    def stepped(self, step: int) -> None:
        """Every step up to `step` is finished on the devices, not just dispatched."""


class Phases:
    """Where a run stands. It begins in "start"."""

    def __init__(self, *listeners: Listener) -> None:
        self.current: Phase = "start"
        self._listeners = listeners
        self._enter("start")

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """The run does `phase` inside, and what it did before again afterwards, errors or not."""
        before = self.current
        self._enter(phase)
        try:
            yield
        finally:
            self._enter(before)

    def begin_steps(self) -> None:
        """The loop begins: whatever is not told otherwise from now on is "step"."""
        self._enter("step")

    def end(self) -> None:
        """What comes after the last step: the run does nothing else until the process leaves."""
        self._enter("end")

    def waiting(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The same batches; the run is in "data" while it waits for each."""
        while True:
            before = self.current
            self._enter("data")
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self._enter(before)
            yield batch

    def stepped(self, step: int) -> None:
        """Every step up to `step` is finished."""
        for listener in self._listeners:
            listener.stepped(step)

    def _enter(self, phase: Phase) -> None:
        self.current = phase
        for listener in self._listeners:
            listener.entered(phase)
