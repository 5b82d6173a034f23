"""How well numbers are told: figures by SciPy.

N rows.
"""

import math
from typing import NamedTuple

import numpy as np


class NumberFigures(NamedTuple):
    """What came out of telling the number of each row.

    pearson, spearman: the correlation of what is told and what is, and that of their ranks; 0 where
    either is the same for all rows, or not finite, which no correlation is defined for.
    """

    mean_squared_error: float
    pearson: float
    spearman: float

    def record(self, prefix: str) -> dict[str, float]:
        """The figures by name."""
        return {f"{prefix}{name}": value for name, value in self._asdict().items()}

    def describe(self) -> str:
        """The figures in a line."""
        return (
            f"mean squared error {self.mean_squared_error:.4f}, Pearson {self.pearson:.4f}, "
            f"Spearman {self.spearman:.4f}"
        )


def number_figures(label_N: np.ndarray, told_N: np.ndarray) -> NumberFigures:
    """The figures of numbers that were told, where there is at least one row."""
    label_N, told_N = (np.asarray(numbers, np.float64) for numbers in (label_N, told_N))
    error = float(np.mean((label_N - told_N) ** 2))
    if min(np.ptp(label_N), np.ptp(told_N)) == 0 or not math.isfinite(error):
        return NumberFigures(error, 0.0, 0.0)
    from scipy import stats

    pearson, spearman = (
        float(correlation(label_N, told_N).statistic)
        for correlation in (stats.pearsonr, stats.spearmanr)
    )
    assert math.isfinite(pearson + spearman)
    return NumberFigures(error, pearson, spearman)
