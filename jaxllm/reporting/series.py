"""A measured quantity over the steps of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class Series:
    """`values[i]` (float64, may be NaN or infinite) was measured at `steps[i]` (int64, rising).

    `weights[i]` (not negative) is what it counts in a mean; without them all count alike.
    """

    steps: np.ndarray
    values: np.ndarray
    weights: np.ndarray | None = None

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

    @property
    def mean(self) -> float:
        """The mean of the finite values; NaN if none counts."""
        amounts, weights = self._weighed()
        total = weights.sum()
        return float(amounts.sum() / total) if total else float("nan")

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
        amounts, weights = (np.concatenate([[0.0], np.cumsum(v)]) for v in self._weighed())
        index = np.arange(len(self))
        reach = np.minimum(np.minimum(index, len(self) - 1 - index), window // 2)
        first, past = index - reach, index + reach + 1
        weight = weights[past] - weights[first]
        counts = np.isfinite(self.values) & (weight > 0)
        mean = (amounts[past] - amounts[first]) / np.where(counts, weight, 1.0)
        return Series(self.steps, np.where(counts, mean, np.nan))

    def _weighed(self) -> tuple[np.ndarray, np.ndarray]:
        """Values times their weights, and the weights; zeros where a value is not finite."""
        finite = np.isfinite(self.values)
        weights = np.where(finite, 1.0 if self.weights is None else self.weights, 0.0)
        return np.where(finite, self.values, 0.0) * weights, weights

    def stretches(self) -> Iterator["Series"]:
        """The stretches of finite values between the gaps."""
        finite = np.isfinite(self.values)
        changes = np.flatnonzero(np.diff(finite.astype(np.int8))) + 1
        for part in np.split(np.arange(len(self)), changes):
            if len(part) and finite[part[0]]:
                yield Series(self.steps[part], self.values[part])
