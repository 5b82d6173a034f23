"""What goes wrong between a client and an emulated Cloud Storage, by seed or on demand."""

import random
import re
import threading
from dataclasses import dataclass
from typing import Literal

# 429, 503: refused, nothing was done. "cut before": the connection is cut, nothing was done.
# "cut after": it was done, and the connection is cut before the answer. "half": half an answer.
Fault = Literal[429, 503, "cut before", "cut after", "half"]

ALL: tuple[Fault, ...] = (429, 503, "cut before", "cut after", "half")


@dataclass
class Planned:
    """A fault of the next `times` requests that match; of all if that is None."""

    fault: Fault | int
    method: str
    path: re.Pattern[str]
    times: int | None
    after: int


class Faults:
    """Which requests fail, and how. Without calls none does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """From here on nothing fails."""
        with self._lock:
            self._planned: list[Planned] = []
            self._rate, self._kinds = 0.0, ALL
            self._random = random.Random(0)
            self.count = 0

    def now_and_then(self, rate: float, *, seed: int, kinds: tuple[Fault, ...] = ALL) -> None:
        """Each request fails with probability `rate` in one of the ways."""
        with self._lock:
            self._rate, self._kinds, self._random = rate, kinds, random.Random(seed)

    def next(
        self,
        fault: Fault | int,
        *,
        method: str = ".*",
        path: str = "",
        times: int | None = 1,
        after: int = 0,
    ) -> None:
        """The next requests that match fail; a number is the status of the answer.

        method, path: regular expressions; the path with its query, percent-encoding undone.
        times: None is for ever. after: matching requests before, which do not fail.
        """
        with self._lock:
            pattern = re.compile(path)
            self._planned.append(Planned(fault, method, pattern, times, after))

    def of(self, method: str, path: str) -> Fault | int | None:
        """The fault of a request, or None."""
        with self._lock:
            fault = self._find(method, path)
            self.count += fault is not None
            return fault

    def _find(self, method: str, path: str) -> Fault | int | None:
        for planned in self._planned:
            if re.fullmatch(planned.method, method) and planned.path.search(path):
                if planned.after > 0:
                    planned.after -= 1
                    continue
                if planned.times is None:
                    return planned.fault
                if planned.times > 0:
                    planned.times -= 1
                    return planned.fault
        if self._rate and self._random.random() < self._rate:
            return self._random.choice(self._kinds)
        return None
