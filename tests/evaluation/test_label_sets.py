"""Figures of any number of classes. N rows, C classes."""

import numpy as np
import pytest
from sklearn import metrics

from jaxllm.evaluation.label_sets import label_set_figures

N, C = 200, 5


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    label, told = rng.integers(0, 2, (N, C)), rng.integers(0, 2, (N, C))
    found = label_set_figures(label.astype(np.float32), told > 0)
    assert found.subset_accuracy == metrics.accuracy_score(label, told)
    for average in ("macro", "micro"):
        assert getattr(found, f"{average}_f1") == metrics.f1_score(label, told, average=average)


def test_figures_by_hand():
    label = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    told = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    found = label_set_figures(label, told)
    assert found.subset_accuracy == 0.5  # the row without a class is right, too
    # Of 4 classes of rows 2 are told, and nothing wrong.
    assert found.micro_f1 == pytest.approx(2 * 2 / (4 + 2), rel=1e-12)
    # F1 of the first: 2 * 2 / (3 + 2), of the second 0; the third is neither there nor told.
    assert found.macro_f1 == pytest.approx(0.4, rel=1e-12)
    assert found.record("x_").keys() == {"x_subset_accuracy", "x_micro_f1", "x_macro_f1"}


def test_rows_without_any_class():
    found = label_set_figures(np.zeros((3, 2)), np.zeros((3, 2)))
    assert found == (1.0, 0.0, 0.0)
