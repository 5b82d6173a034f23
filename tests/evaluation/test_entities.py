"""Figures of entities are those of seqeval, and of sets counted by hand."""

import pytest

from jaxllm.evaluation import entity_figures


def test_an_entity_is_right_as_a_whole_or_not_at_all():
    right = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"], ["O"]]
    told = [["B-A", "I-A", "O", "B-A"], ["O", "B-A"], ["B-B"]]
    figures = entity_figures(right, told)
    # Of four that are told two are right, of three that there are two are found.
    assert figures.precision == 2 / 4
    assert figures.recall == 2 / 3
    assert figures.f1 == pytest.approx(2 * 2 / (4 + 3))  # rounding of a quotient
    assert figures.by_type["A"] == {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "count": 2.0}
    assert figures.by_type["B"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 1.0}
    assert figures.record("x_") == {
        "x_precision": figures.precision,
        "x_recall": figures.recall,
        "x_f1": figures.f1,
    }
    assert "F1 0.5714" in figures.describe()


def test_a_tag_that_goes_on_with_nothing_begins_an_entity():
    assert entity_figures([["B-A", "O", "B-B"]], [["I-A", "O", "I-B"]]).f1 == 1
    assert entity_figures([["B-A", "B-A"]], [["B-A", "I-A"]]).f1 == 0


def test_texts_without_entities_have_figures():
    figures = entity_figures([["O", "O"]], [["O", "O"]])
    assert (figures.precision, figures.recall, figures.f1, figures.by_type) == (0, 0, 0, {})
