"""What belongs together is found among all pairs."""

import numpy as np

from jaxllm.evaluation import retrieval
from jaxllm.evaluation.retrieval import retrieval_figures


def vectors(count=40, width=8):
    return np.random.default_rng(0).normal(size=(2, count, width)).astype(np.float32)


def test_figures_follow_from_the_place_of_each_own_one():
    sought, found = vectors()
    own = np.einsum("NP,NP->N", sought, found)
    ranks = np.array([1 + np.sum(np.delete(found @ s, i) >= own[i]) for i, s in enumerate(sought)])
    figures = retrieval_figures(sought, found)
    assert figures.recall_at_1 == np.mean(ranks == 1)
    assert figures.recall_at_5 == np.mean(ranks <= 5)
    np.testing.assert_allclose(figures.mean_reciprocal_rank, np.mean(1 / ranks), rtol=1e-12)
    assert 0 < figures.recall_at_5 < 1


def test_equal_vectors_find_nothing_and_own_ones_everything():
    one = np.ones((6, 3), np.float32)
    assert retrieval_figures(one, one) == (0.0, 0.0, 1 / 6)
    own = np.eye(6, dtype=np.float32)
    assert retrieval_figures(own, own) == (1.0, 1.0, 1.0)
    assert retrieval_figures(own, own).record("validation_") == {
        "validation_recall_at_1": 1.0,
        "validation_recall_at_5": 1.0,
        "validation_mean_reciprocal_rank": 1.0,
    }


def test_a_set_in_parts_is_the_whole_set(monkeypatch):
    whole = retrieval_figures(*vectors())
    monkeypatch.setattr(retrieval, "_AT_ONCE", 7)
    np.testing.assert_allclose(retrieval_figures(*vectors()), whole, rtol=1e-12)


def test_what_is_no_number_finds_nothing():
    nothing = np.full((6, 3), np.nan, np.float32)
    assert retrieval_figures(nothing, nothing) == (0.0, 0.0, 1 / 6)
