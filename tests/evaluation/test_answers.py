"""Figures of answers, by the examples of their definition."""

import pytest

from jaxllm.evaluation import answer_figures
from jaxllm.evaluation.answers import word_f1, words


def test_articles_capitals_and_punctuation_do_not_count():
    assert words("The  U.S.' Anthem, an (old) one") == ["us", "anthem", "old", "one"]


@pytest.mark.parametrize(
    ("told", "right", "expected"),
    [
        ("two ships", "Two ships.", 1),
        ("two", "two ships", 2 / 3),
        ("two two", "two", 2 / 3),
        ("", "", 1),
        ("", "two", 0),
        ("two", "", 0),
        ("three", "two", 0),
    ],
)
def test_words_that_are_shared(told, right, expected):
    assert word_f1(told, right) == pytest.approx(expected)  # rounding of a quotient


def test_the_nearest_of_the_right_answers_counts():
    figures = answer_figures(
        ["the war", "a big war", "", "peace", ""],
        [["peace", "War"], ["war", "wars"], [], [], ["a", "war"]],
    )
    assert figures.exact_match == 2 / 5
    assert figures.f1 == pytest.approx((1 + 2 / 3 + 1) / 5)  # rounding of a sum
    assert figures.record("x_") == {"x_exact_match": figures.exact_match, "x_f1": figures.f1}
    assert figures.describe() == "exact match 0.4000, F1 0.5333"
