"""What a config.json says of classes."""

import pytest

from jaxllm.hf.label_names import label_keys, read_names


def test_names_both_ways_and_the_loss():
    found = label_keys(("no", "yes"), num_labels=2, problem_type="multi_label_classification")
    assert found == {
        "id2label": {"0": "no", "1": "yes"},
        "label2id": {"no": 0, "yes": 1},
        "problem_type": "multi_label_classification",
    }


def test_what_is_not_known_is_not_said():
    assert label_keys(None, num_labels=1, problem_type="regression") == {
        "problem_type": "regression"
    }
    assert label_keys(("a", "b"), num_labels=None, problem_type=None) == {}
    assert label_keys(("a", "b"), num_labels=3, problem_type=None) == {}, "names of another head"


def test_what_is_written_is_read():
    written = label_keys(("no", "yes"), num_labels=2, problem_type=None)
    assert read_names(written, num_labels=2) == ("no", "yes")


@pytest.mark.parametrize(
    "found",
    [
        None,
        ["no", "yes"],
        {"0": "LABEL_0", "1": "LABEL_1"},
        {"0": "no"},
        {"0": "no", "2": "yes"},
        {"0": "no", "1": 5},
    ],
)
def test_names_that_nobody_gave_are_none(found):
    assert read_names({"id2label": found}, num_labels=2) is None
