"""A measured quantity over the steps of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Series:
    """`values[i]` (float64, may be NaN or infinite) was measured at `steps[i]` (int64, rising)."""

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> np.ndarray:
        """The finite values alone."""
        return self.values[np.isfinite(self.values)]

    @property
    def last(self) -> float:
        """The last value, finite or not."""
        return float(self.values[-1])

    def thinned(self, buckets: int = 300) -> "Series":
        """At most about `3 * buckets` points, which hide no extreme and no gap.

        The points fall into buckets of equal count; each keeps its lowest, its highest and its
        first value that is not finite. First and last point always stay.
        """
        if len(self) <= 2 * buckets:
            return self
        keep = {0, len(self) - 1}
        edges = np.linspace(0, len(self), buckets + 1).astype(int)
        for start, stop in pairwise(edges.tolist()):
            values = self.values[start:stop]
            finite = np.isfinite(values)
            if finite.any():
                keep.add(start + int(np.argmin(np.where(finite, values, np.inf))))
                keep.add(start + int(np.argmax(np.where(finite, values, -np.inf))))
            if not finite.all():
                keep.add(start + int(np.argmin(finite)))
        chosen = np.array(sorted(keep))
        return Series(self.steps[chosen], self.values[chosen])

    def smoothed(self, window: int) -> "Series":
        """The centred mean over `window` points (odd), of the finite ones; gaps stay gaps.

        Towards both ends the window shrinks, so the first and last value stay as they are.
        """
        finite = np.isfinite(self.values)
        total = np.concatenate([[0.0], np.cumsum(np.where(finite, self.values, 0.0))])
        count = np.concatenate([[0], np.cumsum(finite)])
        index = np.arange(len(self))
        reach = np.minimum(np.minimum(index, len(self) - 1 - index), window // 2)
        first, past = index - reach, index + reach + 1
        mean = (total[past] - total[first]) / np.maximum(count[past] - count[first], 1)
        return Series(self.steps, np.where(finite, mean, np.nan))

    def stretches(self) -> Iterator["Series"]:
        """The stretches of finite values between the gaps."""
        finite = np.isfinite(self.values)
        changes = np.flatnonzero(np.diff(finite.astype(np.int8))) + 1
        for part in np.split(np.arange(len(self)), changes):
            if len(part) and finite[part[0]]:
                yield Series(self.steps[part], self.values[part])
