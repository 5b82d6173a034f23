"""Records are read as a dataset of the run: which one, is asked where it matters."""

import pytest
import yaml

from jaxllm.commands.prediction_dataset import dataset_to_read_as
from jaxllm.config import parse_config

from .test_classification import CONFIG
from .test_pairs_and_pictures import CONFIGS, REST

OTHER = {"type": "jsonl", "paths": ["other.jsonl"]}


def run(text=CONFIG, /, **changes):
    """The config of a run with two datasets, of which the second differs from the first in this."""
    raw = yaml.safe_load(text.format(folder="a"))
    (first,) = raw["data"]["datasets"].values()
    raw["data"]["datasets"] = {"one": first, "other": first | changes}
    return parse_config(raw, origin="the test")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (CONFIG, {"label": "side", "validation_every": 5, "weight": 2.0, "source": OTHER}),
        (CONFIG, {"group": None}),
        # Of the second text of a pair, and of the text of a picture, no vector is asked for.
        (CONFIGS["pairs"] + REST, {"text_pair": "title"}),
        (CONFIGS["captions"] + REST, {"text": "alt"}),
    ],
)
def test_datasets_that_are_read_alike_are_one(text, changes):
    config = run(text, **changes)
    name, alone = dataset_to_read_as(config, None)
    assert name == "one"
    assert alone.data.datasets == {"one": config.data.datasets["one"]}
    name, alone = dataset_to_read_as(config, "other")
    assert alone.data.datasets == {"other": config.data.datasets["other"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text": "body"}, "text (one has 'text', other has 'body')"),
        ({"is_cut": False}, "is_cut (one has True, other has False)"),
    ],
)
def test_where_they_are_read_differently_one_must_be_named(changes, said):
    config = run(**changes)
    with pytest.raises(ValueError, match="the run's datasets differ in") as caught:
        dataset_to_read_as(config, None)
    assert said in str(caught.value)
    assert "say with --dataset which of one, other the records are read as" in str(caught.value)
    assert dataset_to_read_as(config, "other")[0] == "other"
    with pytest.raises(ValueError, match="--dataset third: the run has one, other"):
        dataset_to_read_as(config, "third")
