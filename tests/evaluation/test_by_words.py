"""What words alone tell of texts."""

import numpy as np
import pytest

from jaxllm.evaluation.by_words import class_by_words, classes_by_words, number_by_words

TEXTS = [f"{word} and {n}" for n in range(20) for word in ("war", "law")]
ASKED = ["the war", "a law", "law"]


def test_a_class():
    label = np.arange(40) % 2
    np.testing.assert_array_equal(class_by_words((TEXTS, label), ASKED), [0, 1, 1])
    np.testing.assert_array_equal(class_by_words((TEXTS, np.full(40, 3)), ASKED), [3, 3, 3])


def test_any_number_of_classes():
    """Also those that all texts have, or none: nothing is learned of these."""
    of_war = (np.arange(40) % 2 == 0).astype(np.float32)
    label = np.stack([of_war, np.zeros(40), 1 - of_war, np.ones(40)], axis=1)
    expected = [[1, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    np.testing.assert_array_equal(classes_by_words((TEXTS, label), ASKED), expected)
    np.testing.assert_array_equal(classes_by_words((TEXTS, label[:, [1, 3]]), ASKED), [[0, 1]] * 3)


def test_a_number():
    told = number_by_words((TEXTS, np.arange(40) % 2 * 10.0), ASKED)
    assert told[0] < 5 < told[1]
    assert told[1] == pytest.approx(told[2], abs=1)  # the article is no word of the training texts


def test_words_of_one_letter_and_none_at_all():
    """As Chinese that is in signs, and as texts of no words."""
    signs = [" ".join(word) for word in ("战争", "法律") for _ in range(20)]
    by_sign = np.repeat([0, 1], 20)
    np.testing.assert_array_equal(class_by_words((signs, by_sign), ["战 争", "法"]), [0, 1])
    mostly = (np.arange(40) > 5).astype(np.int32)
    np.testing.assert_array_equal(class_by_words((["!"] * 40, mostly), ["?", "war"]), [1, 1])
    assert number_by_words((["!"] * 40, mostly * 40.0), ["war"]) == pytest.approx(34)
