"""The metrics of steps, written one step late so that the device never waits for the host."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from jaxllm.training.throughput import Throughput


class Writer(Protocol):
    """Takes records."""

    def write(self, record: Mapping[str, Any]) -> None: ...


def _unheard(step: int) -> None:
    """Where nobody asks which steps are finished."""


class StepLog:
    """Holds the newest step's metrics on the device while the step before is written.

    Not thread-safe, but for `is_device_busy`.
    """

    def __init__(
        self,
        writer: Writer,
        clock: Throughput,
        *,
        start: int,
        every: int,
        on_record: Callable[[Mapping[str, Any]], None],
        on_finished: Callable[[int], None] = _unheard,
        figures: Callable[[], Mapping[str, float]] = dict,
    ):
        """start: steps done before. every: steps between records.

        on_record: shown each record after it is written. on_finished: told the newest step known to
        be finished on the devices, as soon as the loop looks. figures: added to each record.
        """
        self._writer = writer
        self._clock = clock
        self._every = every
        self._on_record = on_record
        self._on_finished = on_finished
        self._figures = figures
        # Of each step dispatched and not known to be finished, one figure: they come together.
        self._in_flight: deque[tuple[int, jax.Array]] = deque()
        self._newest: jax.Array | None = None
        self._written = start
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def poll(self) -> None:
        """Write what is held if its step is finished already; call it before the next dispatch.

        On CPU a step may run inside its dispatch: waiting until the next one is dispatched would
        count that one's time as this one's.
        """
        self._notice()
        if self._pending is not None and all(v.is_ready() for v in self._pending[1].values()):
            self.flush()

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of a step just dispatched; write those of the one before."""
        self._newest = next(iter(metrics.values()))
        self._in_flight.append((step, self._newest))
        if step % self._every:
            return
        for value in metrics.values():
            value.copy_to_host_async()
        self.flush()
        self._pending = step, metrics

    def pause(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """The loop turns to something else after `step`: write what is held, stop the clock."""
        self.flush()
        if step > self._written:  # steps since the last record count, though none is due yet
            jax.block_until_ready(metrics)
            self._finish(step)
            self._clock.read(step - self._written)
            self._written = step

    def resume(self) -> None:
        """The loop goes back to training."""
        self._clock.restart()

    def is_device_busy(self) -> bool:
        """Whether the newest step is in flight still. Any thread may ask; nothing is waited for."""
        newest = self._newest
        return newest is not None and not newest.is_ready()

    def flush(self) -> None:
        """Write what is held, waiting for its step to finish."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        # One explicit transfer; anything implicit would be refused by the loop's guard.
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._finish(step)
        record = {"step": step, **figures, **self._clock.read(step - self._written)}
        self._written = step
        record |= self._figures()
        self._writer.write(record)
        self._on_record(record)

    def _notice(self) -> None:
        """Look which steps are finished, without waiting."""
        finished = None
        while self._in_flight and self._in_flight[0][1].is_ready():
            finished = self._in_flight.popleft()[0]
        if finished is not None:
            self._on_finished(finished)

    def _finish(self, step: int) -> None:
        """Steps up to `step` are finished."""
        is_news = False
        while self._in_flight and self._in_flight[0][0] <= step:
            self._in_flight.popleft()
            is_news = True
        if is_news:
            self._on_finished(step)
