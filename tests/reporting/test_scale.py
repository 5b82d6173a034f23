import math

import pytest

from jaxllm.reporting.scale import (
    Scale,
    compact,
    duration,
    log_tick_texts,
    scale_over,
    tick_texts,
)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 7.9), (-5, 5), (0, 2e-5), (1e9, 3e9), (0.998, 1.0)]
)
def test_linear_ticks_are_few_round_inside_and_said_apart(low, high):
    scale = Scale(low, high)
    ticks = scale.ticks()
    texts = tick_texts(ticks)
    assert 3 <= len(ticks) <= 8
    assert all(-1e-6 <= scale.place(tick) <= 1 + 1e-6 for tick in ticks)  # rounding of a quotient
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("decades", [1.7, 2, 3, 5, 9, 20])
def test_log_ticks_are_few_inside_and_said_apart(decades):
    scale = Scale(0.037, 0.037 * 10**decades, log=True)
    texts = log_tick_texts(scale.ticks())
    assert 2 <= len(texts) <= 8
    assert len(set(texts)) == len(texts)
    assert all(0 <= scale.place(tick) <= 1 for tick in scale.ticks())


@pytest.mark.parametrize("values", [[], [3.0], [0.0, 0.0], [2.0, 2.0], [-1.0, 4.0], [1e-9, 1e9]])
@pytest.mark.parametrize("from_zero", [False, True])
def test_an_axis_shows_all_its_values(values, from_zero):
    scale = scale_over(values, from_zero=from_zero)
    assert scale.high > scale.low
    assert all(0 <= scale.place(value) <= 1 for value in values)
    assert not from_zero or scale.low <= 0


def test_numbers_as_text():
    said = {
        0.0: "0",
        7.6249: "7.62",
        1234.0: "1,234",
        12345.0: "12.3k",
        512000.0: "512k",
        2.5e9: "2.5B",
        3e-4: "3e\u22124",
        -1.5: "\u22121.5",
        math.nan: "NaN",
        -math.inf: "\u2212\u221e",
    }
    assert {value: compact(value) for value in said} == said


def test_durations_as_text():
    said = {4.25: "4.2 s", 42.4: "42 s", 131.4: "2m 11s", 11_100: "3h 05m", 187_200: "2d 4h"}
    assert {seconds: duration(seconds) for seconds in said} == said
