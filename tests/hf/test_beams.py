"""Marian and T5 find by beam search what transformers finds with the same weights.

The recorded searches are in float64, and no two scores that were compared in them are within the
recorded margin of each other.
"""

import itertools
from functools import cache

import numpy as np
import pytest

from jaxllm.generation.beam import BeamSearch
from jaxllm.generation.translate import Translator

from .published import GOLDEN, published

CASES = ("t5", "marian")
SETTINGS = range(5)
FAST = ("marian", 2)  # length_penalty 0.6, 12 tokens: targets of all lengths
PAIRS = [
    pytest.param(*pair, marks=[] if pair == FAST else pytest.mark.slow)
    for pair in itertools.product(CASES, SETTINGS)
]


@cache
def recorded(name):
    return dict(np.load(GOLDEN / name / "beams.npz"))


def sources_of(answers):
    pairs = zip(answers["sources"], answers["source_lengths"], strict=True)
    return [row[:length].tolist() for row, length in pairs]


@pytest.mark.parametrize(("name", "setting"), PAIRS)
def test_targets_and_scores_equal(name, setting):
    """All sources in one batch, though transformers had each alone."""
    case, answers = published(name), recorded(name)
    expected, scores = answers["ids"][setting], answers["scores"][setting]
    # Which tokens transformers held back or forced, a run knows from the folder's config.json.
    padding, forced = case.config.padding_id, case.config.forced_end_id
    assert answers["forbidden_ids"].tolist() == ([] if padding is None else [padding])
    assert answers["forced_ids"].tolist() == ([] if forced is None else [forced])
    translator = Translator(
        case.module,
        vocab_size=case.config.vocab_size,
        max_tokens=int(answers["max_tokens"][setting]),
        stop_ids=answers["stop_ids"].tolist(),
        forbidden_ids=[] if padding is None else [padding],
        forced_id=forced,
        search=BeamSearch(
            num_beams=expected.shape[1], length_penalty=float(answers["length_penalties"][setting])
        ),
    )
    found = translator.ranked(case.load(), sources_of(answers))
    assert [[one.ids for one in ranked] for ranked in found] == [
        [ids[ids >= 0].tolist() for ids in ranked] for ranked in expected
    ]
    # A sum of up to 12 log p, each of logits of about 5 that float32 moves by a few 1e-6; two
    # compared ones were the margin apart at least.
    allowed = 1e-5
    assert 2 * allowed < answers["margin"]
    found = [[one.score for one in ranked] for ranked in found]
    np.testing.assert_allclose(found, scores, rtol=0, atol=allowed)
