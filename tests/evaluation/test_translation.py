"""Figures of translations are sacrebleu's, and BLEU is what its definition says."""

import math
import sys

import pytest
import sacrebleu

from jaxllm.evaluation.translation import translation_figures

TOLD = ["the cat sat on the mat today", "a dog barked"]
RIGHT = ["the cat sat on the mat yesterday", "a dog barked"]


def test_bleu_by_hand():
    """Right are 9 of 10 words, 7 of 8 pairs, 5 of 6 triples and 3 of 4 fours."""
    precisions = (9 / 10, 7 / 8, 5 / 6, 3 / 4)
    expected = 100 * math.exp(sum(map(math.log, precisions)) / 4)  # equal lengths: no penalty
    found = translation_figures(TOLD, RIGHT)
    assert found.bleu == pytest.approx(expected, rel=1e-9)  # rounding of a few float64
    assert found.describe().startswith("BLEU 83.76, chrF ")
    assert "tok:13a" in found.signature


def test_figures_are_sacrebleus():
    """On the texts of its documentation, with the first of their references."""
    told = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    right = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    found = translation_figures(told, right)
    assert found.bleu == sacrebleu.corpus_bleu(told, [right]).score
    assert found.chrf == sacrebleu.corpus_chrf(told, [right]).score
    assert found.bleu == pytest.approx(45.067506, abs=1e-6)  # recorded, with so many digits
    assert found.chrf == pytest.approx(50.043064, abs=1e-6)
    assert found.record("validation_") == {
        "validation_bleu": found.bleu,
        "validation_chrf": found.chrf,
    }


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ValueError, match=r"pip install 'jaxllm\[finetune\]'"):
        translation_figures(TOLD, RIGHT)
