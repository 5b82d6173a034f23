"""Entities are told of whole texts, whatever rows these are cut into."""

import jax
import numpy as np
import pytest

from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.tagged_texts import TaggedTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.evaluation import Predicted
from jaxllm.generation import BeamSearch
from jaxllm.objectives import TokenClassification
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.tasks.entities import Entities

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
TEXTS = [
    (["Mrs", "Jo", "Ann", "", "went", "to", "Rome"], [0, 1, 2, 0, 0, 0, 3]),
    (["nobody"], [0]),
    (["Paris", "New", "York"], [3, 3, 4]),
]
DATASET = TaggedTextsConfig.model_validate(
    {"source": {"type": "conll", "paths": ["a.conll"]}, "tags": TAGS}
)


@pytest.fixture(scope="module")
def task():
    layout = ParallelConfig(layout="replicated").build(jax.devices()[:1])
    return Entities(
        TokenClassification(),
        None,
        dataset=DATASET,
        tokenizer=ByteTokenizer(),
        layout=layout,
        rows=4,
        length=12,
        search=BeamSearch(),
    )


def rows_of(fields, *, length=12, is_labelled=True):
    examples = [
        DATASET.encode(ExampleRecord(one, "a:1"), ByteTokenizer(), is_labelled=is_labelled)[0]
        for one in fields
    ]
    return DATASET.rows(table_of(examples), length, tokenizer=ByteTokenizer())


def logits_of(rows, tags, *, length=12):
    """What tells these tags of each example's words, with a likelihood of 0.9, and noise."""
    logits = np.random.default_rng(0).normal(size=(rows.num_rows, length, len(TAGS)))
    for row in range(rows.num_rows):
        part, places = rows.part(row), rows.places(row)
        of_row = tags[rows.example_of(row)][part.first_word : part.stop_word]
        for tag, place in zip(of_row, places, strict=True):
            if place >= 0:
                logits[row, place] = np.log(0.1 / 4)
                logits[row, place, tag] = np.log(0.9)
    return logits.astype(np.float32)


def test_figures_are_of_whole_texts(task):
    rows = rows_of([{"words": words, "tags": [TAGS[n] for n in tags]} for words, tags in TEXTS])
    assert rows.num_rows > len(TEXTS)
    right = [tags for _, tags in TEXTS]
    told = [right[0], right[1], [3, 3, 0]]
    for tags, expected in ((right, 1), (told, 3 / 4)):
        fields = {"logits": logits_of(rows, tags)}
        figures = task.figures([Predicted(None, fields, rows)])
        assert figures.f1 == expected
    both = task.figures([Predicted(None, {"logits": logits_of(rows, right)}, rows)] * 2)
    assert both.by_type["PER"]["count"] == 2


@pytest.mark.parametrize("length", [12, 64])
def test_an_answer_is_the_same_for_any_length_of_rows(task, length):
    rows = rows_of([{"words": words} for words, _ in TEXTS], length=length, is_labelled=False)
    logits = logits_of(rows, [tags for _, tags in TEXTS], length=length)
    answers = []
    for number in range(len(TEXTS)):
        of_example = [row for row in range(rows.num_rows) if rows.example_of(row) == number]
        parts = [{"logits": logits[row]} for row in of_example]
        answers.append(task.answer(parts, rows, of_example)["entities"])
    scores = [one.pop("score") for entities in answers for one in entities]
    np.testing.assert_allclose(scores, 0.9, rtol=1e-6)  # float32 logits
    assert answers == [
        [
            {"text": "Jo Ann", "label": "PER", "start": 1, "end": 3},
            {"text": "Rome", "label": "LOC", "start": 6, "end": 7},
        ],
        [],
        [
            {"text": "Paris", "label": "LOC", "start": 0, "end": 1},
            {"text": "New York", "label": "LOC", "start": 1, "end": 3},
        ],
    ]


def test_entities_of_a_text_are_told_by_their_characters(task):
    text = "  Mrs Jo-Ann, of Rome"
    rows = rows_of([{"text": text}], length=64, is_labelled=False)
    logits = logits_of(rows, [[0, 1, 2, 2, 0, 0, 3]], length=64)
    (first, second) = task.answer([{"logits": logits[0]}], rows, [0])["entities"]
    for found, expected in ((first, "Jo-Ann"), (second, "Rome")):
        assert found["text"] == expected == text[found["start"] : found["end"]]
