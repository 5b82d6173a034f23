"""How well classes are told of which a text has any number: figures by scikit-learn.

N rows, C classes.
"""

from typing import NamedTuple

import numpy as np


class LabelSetFigures(NamedTuple):
    """What came out of telling which classes each row has.

    subset_accuracy: of the rows, those of which all classes are told and no other. The F1 scores
    are of yes and no for each class: micro over all answers, macro a mean over the classes that
    some row has or is told to have.
    """

    subset_accuracy: float
    micro_f1: float
    macro_f1: float

    def record(self, prefix: str) -> dict[str, float]:
        """The figures by name."""
        return {f"{prefix}{name}": value for name, value in self._asdict().items()}

    def describe(self) -> str:
        """The figures in a line."""
        return (
            f"micro-F1 {self.micro_f1:.4f}, macro-F1 {self.macro_f1:.4f}, all classes right in "
            f"{self.subset_accuracy:.4f}"
        )


def label_set_figures(label_NC: np.ndarray, told_NC: np.ndarray) -> LabelSetFigures:
    """The figures of flags, 1 for a class that a row has or is told to have, 0 for others."""
    from sklearn import metrics

    label_NC, told_NC = (np.asarray(flags) > 0 for flags in (label_NC, told_NC))
    occurs_C = (label_NC | told_NC).any(axis=0)

    def f1(average: str, chosen_C: np.ndarray) -> float:
        if not chosen_C.any():
            return 0.0
        flags = (label_NC[:, chosen_C], told_NC[:, chosen_C])
        return float(metrics.f1_score(*flags, average=average, zero_division=0.0))

    return LabelSetFigures(
        subset_accuracy=float(metrics.accuracy_score(label_NC, told_NC)),
        micro_f1=f1("micro", np.ones_like(occurs_C)),
        macro_f1=f1("macro", occurs_C),
    )
