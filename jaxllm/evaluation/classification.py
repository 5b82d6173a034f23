"""How well classes are told: figures by scikit-learn.

N rows, C classes.
"""

from typing import NamedTuple

import numpy as np


class ClassFigures(NamedTuple):
    """What came out of telling classes apart.

    The F1 scores are of the classes that occur: macro a mean over them, micro over the rows.
    matthews: the correlation of what is told and what is, for any number of classes.
    confusion: counts (C, C), of the true class in rows and the told one in columns.
    """

    accuracy: float
    macro_f1: float
    micro_f1: float
    matthews: float
    confusion: list[list[int]]

    def record(self, prefix: str) -> dict[str, float]:
        """The figures that are numbers, by name."""
        numbers = self._asdict()
        return {f"{prefix}{name}": numbers[name] for name in self._fields if name != "confusion"}

    def describe(self) -> str:
        """The most telling ones in a line."""
        return f"accuracy {self.accuracy:.4f}, macro-F1 {self.macro_f1:.4f}"


def class_figures(label_N: np.ndarray, told_N: np.ndarray, *, num_classes: int) -> ClassFigures:
    """The figures of classes that were told, where there is at least one row."""
    from sklearn import metrics

    with np.errstate(invalid="ignore"):
        return ClassFigures(
            accuracy=float(metrics.accuracy_score(label_N, told_N)),
            macro_f1=float(metrics.f1_score(label_N, told_N, average="macro", zero_division=0.0)),
            micro_f1=float(metrics.f1_score(label_N, told_N, average="micro", zero_division=0.0)),
            matthews=float(metrics.matthews_corrcoef(label_N, told_N)),
            confusion=metrics.confusion_matrix(
                label_N, told_N, labels=np.arange(num_classes)
            ).tolist(),
        )
