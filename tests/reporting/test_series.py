import numpy as np

from jaxllm.reporting.series import Series


def series(values):
    return Series(np.arange(len(values)), np.asarray(values, np.float64))


def test_thinning_keeps_every_extreme_and_both_ends():
    values = np.sin(np.arange(20_000) / 700)
    values[7_001], values[13_333] = 50.0, -50.0
    values[[0, -1]] = values[[1, -2]] = 0.125  # ends that are no extremes of their surroundings
    values[[2, 3, -3, -4]] = [-3.0, 3.0, -3.0, 3.0]
    thin = series(values).thinned(100)
    assert len(thin) <= 300
    assert {50.0, -50.0} <= set(thin.values.tolist())
    assert {0, 19_999} <= set(thin.steps.tolist())
    assert np.all(np.diff(thin.steps) > 0)
    np.testing.assert_array_equal(thin.values, values[thin.steps])


def test_thinning_keeps_a_gap_of_one_point():
    values = np.ones(20_000)
    values[12_345] = np.nan
    thin = series(values).thinned(100)
    assert 12_345 in thin.steps[np.isnan(thin.values)]
    assert len(list(thin.stretches())) == 2


def test_few_points_are_all_kept():
    short = series([1.0, np.nan, 3.0])
    assert short.thinned(100) is short


def test_smoothing_is_the_mean_of_the_finite_neighbours():
    values = np.array([4.0, 2.0, 9.0, np.nan, 5.0, 1.0, 3.0])
    smooth = series(values).smoothed(3).values
    # Each by hand; float64 sums of small integers are exact, their quotients equal in every order.
    np.testing.assert_array_equal(smooth, [4.0, 5.0, 5.5, np.nan, 3.0, 3.0, 3.0])


def test_means_weigh_the_values_where_weights_are_given():
    weights = np.array([1.0, 3.0, 0.0, 2.0, 2.0])
    weighed = Series(np.arange(5), np.array([4.0, 8.0, 9.0, np.inf, 1.0]), weights)
    assert weighed.mean == (4 + 3 * 8 + 2 * 1) / 6
    np.testing.assert_array_equal(weighed.smoothed(3).values, [4.0, 7.0, 8.0, np.nan, 1.0])
    assert np.isnan(series([np.nan]).mean)


def test_stretches_end_at_values_that_are_not_finite():
    parts = list(series([np.nan, 1, 2, np.inf, 3, np.nan, np.nan]).stretches())
    assert [part.values.tolist() for part in parts] == [[1, 2], [3]]
    assert list(series([]).stretches()) == []
