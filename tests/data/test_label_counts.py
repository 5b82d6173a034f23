"""What the labels of a dataset are, in numbers."""

import numpy as np

from jaxllm.data.example_table import table_of
from jaxllm.data.label_counts import edge_names, label_counts


def table(**columns):
    rows = zip(*columns.values(), strict=True)
    return table_of([dict(zip(columns, map(np.asarray, row), strict=True)) for row in rows])


def test_tags_are_counted_by_their_names():
    tagged = table(label=[np.array([0, 2], np.int32), np.array([0], np.int32)])
    expected = {"label O": 2, "label B-PER": 0, "label I-PER": 1}
    assert label_counts(tagged, {"tags": ["O", "B-PER", "I-PER"]}) == expected


def test_answers_to_questions_are_no_classes():
    answers = table(
        label=[np.array([3, 4], np.int32)], label_texts=[np.frombuffer(b'["me"]', np.uint8)]
    )
    assert label_counts(answers, {}) == {}


def test_numbers_need_no_names():
    numbers = table(label_number=[np.array([1.0], np.float32), np.array([3.0], np.float32)])
    assert label_counts(numbers, {}) == {"label mean": 2, "label least": 1, "label most": 3}


def test_no_two_classes_between_numbers_are_called_alike():
    names = edge_names((20200101.0, 20200131.0, 20200131.5))
    assert names[0] == "below 20200101"
    assert names[1] == "20200101 to 20200131"
    assert len(set(names)) == 4
    assert edge_names((0.1,)) == ("below 0.1", "0.1 and above")
