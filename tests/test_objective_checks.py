"""Datasets of one run that make batches of different kinds are refused."""

import pytest

from jaxllm.data import DataConfig
from jaxllm.objective_checks import _examples_are_alike

SOURCE = {"type": "jsonl", "paths": ["none.jsonl"]}


def problems(*datasets):
    named = {f"d{n}": {"source": SOURCE} | one for n, one in enumerate(datasets)}
    data = {"sequence_length": 8, "global_batch_size": 2, "datasets": named}
    return list(_examples_are_alike(DataConfig.model_validate(data)))


CLASSES = {"type": "labelled_texts", "labels": ["a", "b"]}
QUESTIONS = {"type": "questions"}
PAIRS = {"type": "text_pairs"}


@pytest.mark.parametrize(
    ("one", "change", "what"),
    [
        (CLASSES, {"labels": ["b", "a"]}, "the same classes"),
        (CLASSES, {"text_pair": "other"}, "all of them a text_pair or none"),
        (QUESTIONS, {"has_unanswerable": True}, "the same has_unanswerable"),
    ],
)
def test_datasets_that_are_not_alike(one, change, what):
    assert problems(one, one | change) == [f"data.datasets: d0 and d1 must have {what}"]
    assert problems(one, one | {"weight": 2.0}) == []


def test_pairs_may_be_given_in_one_and_made_in_another():
    assert problems(PAIRS, PAIRS | {"text_pair": None, "passage_tokens": 4}) == []
