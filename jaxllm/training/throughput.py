"""How fast a run is, and where the time goes: tokens per second, MFU, data wait, memory."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from jaxllm.hardware import find_chip

# The loop sees that a step is finished when it next looks, which may be after it has dispatched
# another one: the time between two looks may be off by that much, and near nothing for the step
# before a pause, for which it waits. Over so many seconds of short steps that is little.
_WINDOW = 0.5


class Reading(NamedTuple):
    """Since the clock was made: steps finished, seconds in them, seconds waiting for data."""

    steps: int
    seconds: float
    data_wait: float


class Throughput:
    """A clock around the steps of the loop. Host side only: it never waits for a device."""

    def __init__(self, *, tokens_per_step: int, flops_per_token: float):
        """flops_per_token: forward and backward, of the model alone (no recomputation)."""
        self.tokens_per_step = tokens_per_step
        self._flops_per_token = flops_per_token
        self._num_devices = jax.device_count()
        self._chip = find_chip(jax.devices()[0].device_kind)
        self._data_wait = 0.0
        self._since = time.perf_counter()
        self._readings = deque([Reading(0, 0.0, 0.0)])

    @property
    def training_seconds(self) -> float:
        """Time in steps up to the last reading, without evaluation and saving."""
        return self._readings[-1].seconds

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; the time spent waiting for each is counted."""
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self._data_wait += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def read(self, num_steps: int) -> dict[str, float | int]:
        """Figures of the `num_steps` steps finished since the last reading.

        Where these are too short to be timed, of those before as well, pauses left out.
        tokens_per_second (all devices), tokens_per_second_per_device, data_wait_share (of the
        time), memory_bytes, and mfu where the chip's peak is known.
        """
        self._note(num_steps)
        first, last = self._readings[0], self._readings[-1]
        seconds = last.seconds - first.seconds
        tokens_per_second = (last.steps - first.steps) * self.tokens_per_step / seconds
        per_device = tokens_per_second / self._num_devices
        figures: dict[str, float | int] = {
            "tokens_per_second": tokens_per_second,
            "tokens_per_second_per_device": per_device,
            "data_wait_share": min((last.data_wait - first.data_wait) / seconds, 1.0),
            "memory_bytes": memory_bytes(),
        }
        mfu = self.mfu(per_device)
        if mfu is not None:
            figures["mfu"] = mfu
        return figures

    def _note(self, num_steps: int) -> None:
        """Add a reading, and drop those that the window does not need."""
        now, last = time.perf_counter(), self._readings[-1]
        seconds = last.seconds + max(now - self._since, 1e-9)
        data_wait = last.data_wait + self._data_wait
        self._readings.append(Reading(last.steps + num_steps, seconds, data_wait))
        self._data_wait, self._since = 0.0, now
        # The first steps also wake the machine up: they say nothing about those after them.
        while len(self._readings) > 2 and (
            self._readings[0].steps == 0 or seconds - self._readings[1].seconds >= _WINDOW
        ):
            self._readings.popleft()

    def restart(self) -> None:
        """Go on: what happened since the last reading was not training."""
        self._data_wait, self._since = 0.0, time.perf_counter()

    def mfu(self, tokens_per_second_per_device: float) -> float | None:
        """Model FLOP/s over the chip's peak (arXiv:2204.02311); None where it is unknown."""
        if self._chip is None:
            return None
        return tokens_per_second_per_device * self._flops_per_token / self._chip.peak_flops


def memory_bytes() -> int:
    """Memory in use: of the first local device, or of this process where devices do not say."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_in_use" in stats:
        return int(stats["bytes_in_use"])
    import psutil

    return int(psutil.Process().memory_info().rss)
