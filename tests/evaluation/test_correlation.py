"""Figures of numbers. N rows."""

import numpy as np
import pytest
from scipy import stats

from jaxllm.evaluation.correlation import number_figures

N = 50


def test_figures_are_scipys():
    rng = np.random.default_rng(0)
    label = rng.normal(size=N).astype(np.float32)
    told = (label + rng.normal(size=N)).astype(np.float32)
    found = number_figures(label, told)
    wide = (label.astype(np.float64), told.astype(np.float64))
    assert found.pearson == stats.pearsonr(*wide).statistic
    assert found.spearman == stats.spearmanr(*wide).statistic
    assert found.mean_squared_error == np.mean((wide[0] - wide[1]) ** 2)
    assert 0.3 < found.pearson < 0.95


def test_figures_by_hand():
    found = number_figures(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 8.0]))
    assert found.mean_squared_error == 12
    assert found.spearman == pytest.approx(1, rel=1e-12)
    assert found.pearson < 0.95
    assert set(found.record("x_")) == {"x_mean_squared_error", "x_pearson", "x_spearman"}


@pytest.mark.parametrize("constant", [0, 1])
def test_numbers_that_are_all_the_same_have_no_correlation(constant):
    given = [np.array([1.0, 2.0]), np.array([1.0, 2.0])]
    given[constant] = np.array([3.0, 3.0])
    assert number_figures(*given)[1:] == (0.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_has_no_correlation(value):
    found = number_figures(np.array([1.0, 2.0, 3.0]), np.array([1.0, value, 2.0]))
    assert not np.isfinite(found.mean_squared_error)
    assert found[1:] == (0.0, 0.0)
