"""What texts are labelled with, what a dataset itself tells of that, and sets that come apart."""

import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pydantic import TypeAdapter, ValidationError

from jaxllm.data import DataConfig, MissingData, describe_dataset
from jaxllm.data.datasets import DatasetConfig

LENGTH = 16
REVIEWS = ["a fine film", "no", "well made", "dull", "it has wit", "too long"]


class Reviews(tfds.core.GeneratorBasedBuilder):
    """A dataset with two splits, whose classes have names, as glue/sst2 has them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "sentence": tfds.features.Text(),
                "label": tfds.features.ClassLabel(names=["negative", "positive"]),
                "tone": tfds.features.ClassLabel(names=["warm", "cold"]),
                "topics": tfds.features.Sequence(tfds.features.ClassLabel(names=["wit", "length"])),
                "stars": np.float32,
                "number": np.int64,
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(6)}

    def _generate_examples(self, count):
        for number in range(count - 4, count):
            yield (
                number,
                {
                    "sentence": REVIEWS[number],
                    "label": (number + 1) % 2,
                    "tone": number % 2,
                    "topics": [[], ["length"], ["wit", "length"]][number % 3],
                    "stars": number / 2,
                    "number": number,
                },
            )


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """The folder of the prepared dataset, which is a name as good as glue/sst2."""
    folder = tmp_path_factory.mktemp("tfds")
    builder = Reviews(data_dir=str(folder))
    builder.download_and_prepare(file_format="array_record")
    return str(builder.data_dir)


def build(root, folders=None, **dataset):
    config = DataConfig.model_validate(
        {
            "sequence_length": LENGTH,
            "global_batch_size": 2,
            "tokenizer": {"type": "byte"},
            "datasets": {"texts": dataset},
            "root": str(root),
        }
    )
    return config.build(folders=folders)


def told(data, split="train"):
    """The texts of a split with their labels."""
    rows = data.examples["texts"][split]
    texts = [data.tokenizer.decode(rows.text_tokens(row)[0]) for row in range(rows.num_rows)]
    return dict(zip(texts, rows.read(range(rows.num_rows))["label"].tolist(), strict=True))


def test_a_tfds_name_is_a_dataset(reviews, tmp_path):
    short = {"type": "tfds", "name": reviews, "text": "sentence", "label": "label"}
    data = build(tmp_path, **short, validation_split="validation")
    dataset = data.config.datasets["texts"]
    assert dataset.class_names == ("negative", "positive")
    assert dataset.type == "labelled_texts"
    assert told(data) == {REVIEWS[n]: (n + 1) % 2 for n in range(4)}
    assert told(data, "validation") == {REVIEWS[n]: (n + 1) % 2 for n in range(2, 6)}
    long = {
        "type": "labelled_texts",
        "source": {"type": "tfds", "name": reviews},
        "validation_source": {"type": "tfds", "name": reviews, "split": "validation"},
        "text": "sentence",
        "labels": ["negative", "positive"],
    }
    assert build(tmp_path, **long).folders == data.folders, "the same, said in full"
    again = build(tmp_path, **short, split="train[:50%]", validation_every=2)
    assert again.folders != data.folders


def test_what_it_told_is_known_without_it(reviews, tmp_path):
    short = {"type": "tfds", "text": "sentence", "validation_every": 2}
    data = build(tmp_path, name=reviews, **short)
    later = build(tmp_path, data.folders, name=str(tmp_path / "gone"), **short)
    assert later.config.datasets["texts"].class_names == ("negative", "positive")
    assert told(later) == told(data)
    with pytest.raises(ValueError, match=r"data\.datasets\.texts\.source\.name: .* is no folder"):
        build(tmp_path, name=str(tmp_path / "gone"), **short)


def test_of_another_label_it_is_asked_anew(reviews, tmp_path):
    short = {"type": "tfds", "name": reviews, "text": "sentence", "validation_every": 0}
    data = build(tmp_path, **short)
    other = build(tmp_path, data.folders, **short, label="tone")
    assert other.config.datasets["texts"].class_names == ("warm", "cold")
    assert told(other) == {REVIEWS[n]: n % 2 for n in range(4)}


def test_its_numbers_and_sequences_of_classes(reviews, tmp_path):
    short = {"type": "tfds", "name": reviews, "text": "sentence", "validation_every": 0}
    data = build(tmp_path, **short, label="stars", label_kind="number")
    assert told(data) == {REVIEWS[n]: n / 2 for n in range(4)}
    topics = {"label": "topics", "label_kind": "classes", "labels": ["length", "wit"]}
    data = build(tmp_path, **short, **topics)
    assert told(data) == {REVIEWS[n]: [[0, 0], [1, 0], [1, 1]][n % 3] for n in range(4)}


def test_features_without_names_of_classes_are_told(reviews, tmp_path):
    short = {"type": "tfds", "name": reviews, "text": "sentence"}
    with pytest.raises(ValueError, match=r"texts\.labels: the feature 'number' of .* give their"):
        build(tmp_path, **short, label="number")
    with pytest.raises(ValueError, match=r"texts\.label: .* no feature 'class', only 'label', "):
        build(tmp_path, **short, label="class")


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {"type": "jsonl", "paths": [str(path)]}


def jsonl(path, given, **options):
    """A dataset of texts that are numbered, with these labels."""
    records = [{"text": f"text {n}", "label": label} for n, label in enumerate(given)]
    return {"type": "labelled_texts", "source": lines(path, records), **options}


def test_any_number_of_classes_in_a_list_or_a_text(tmp_path):
    given = [["law", "war"], [], "war", "law; war", "", "law"]
    options = {"label_kind": "classes", "labels": ["war", "law"], "label_separator": ";"}
    data = build(tmp_path, **jsonl(tmp_path / "a.jsonl", given, **options), validation_every=6)
    flags = [[1, 1], [0, 0], [1, 0], [1, 1], [0, 0]]
    assert told(data) == {f"text {n}": flag for n, flag in enumerate(flags)}
    batch = data.train_loader(seed=0).batch(0)
    shapes = data.config.datasets["texts"].shapes(2, LENGTH)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items()
    }


def test_numbers(tmp_path):
    options = {"label_kind": "number", "validation_every": 0}
    data = build(tmp_path, **jsonl(tmp_path / "a.jsonl", [1.5, "-2", 0], **options))
    assert told(data) == {"text 0": 1.5, "text 1": -2, "text 2": 0}
    batch = data.train_loader(seed=0).batch(0)
    shape = data.config.datasets["texts"].shapes(2, LENGTH)["label"]
    assert (batch["label"].shape, batch["label"].dtype) == (shape.shape, shape.dtype)


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        (["peace"], {"labels": ["a", "b"]}, r"a\.jsonl:2: 'label' is 'peace', which is not one of"),
        ("a, peace", {"labels": ["a", "b"]}, r"a\.jsonl:2: 'label' is 'peace', which is not one"),
        (3, {"labels": ["a", "b"]}, r"a\.jsonl:2: 'label' is 3; give a list of names, or a text"),
        (None, {"labels": ["a", "b"]}, r"a\.jsonl:2: 'label' is None; give a list of names"),
        ("high", {"label_kind": "number"}, r"a\.jsonl:2: 'label' is 'high'; give a number"),
        (-1e39, {"label_kind": "number"}, r"a\.jsonl:2: 'label' is -1e\+39; give .* at most 3\.4"),
    ],
)
def test_labels_that_are_none_are_told_with_their_line(tmp_path, label, options, message):
    good = 1 if "label_kind" in options else ["a"]
    given = {"label_kind": "classes", "validation_every": 0, **options}
    with pytest.raises(ValueError, match=rf"texts\.label: .*{message}"):
        build(tmp_path, **jsonl(tmp_path / "a.jsonl", [good, label], **given))


def test_what_is_held_out_may_come_from_elsewhere(tmp_path):
    own = [{"text": "held out", "label": "b"}]
    source = lines(tmp_path / "b.jsonl", own)
    options = {"labels": ["a", "b"], "validation_source": source}
    many = build(tmp_path, **jsonl(tmp_path / "a.jsonl", ["a"] * 40, **options))
    assert len(told(many)) == 40, "and none of the others is held out"
    data = build(tmp_path, **jsonl(tmp_path / "a.jsonl", ["a", "b"], **options))
    assert told(data) == {"text 0": 0, "text 1": 1}
    assert told(data, "validation") == {"held out": 1}
    before = data.folders
    lines(tmp_path / "b.jsonl", [*own, {"text": "more", "label": "a"}])
    data = build(tmp_path, **jsonl(tmp_path / "a.jsonl", ["a", "b"], **options))
    assert told(data, "validation") == {"held out": 1, "more": 0}
    assert data.folders != before
    lines(tmp_path / "b.jsonl", [{"text": "bad", "label": "c"}])
    with pytest.raises(ValueError, match=r"texts\.label: .*b\.jsonl:1: 'label' is 'c'"):
        build(tmp_path, **jsonl(tmp_path / "a.jsonl", ["a", "b"], **options))
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(MissingData, match=r"texts\.validation_source\.paths: .*no file"):
        build(tmp_path, **jsonl(tmp_path / "a.jsonl", ["a", "b"], **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_kind": "classes"}, "label_kind=classes needs labels, their names"),
        ({"label_kind": "number", "labels": ["a", "b"]}, "has no classes; leave out labels"),
        ({"label_kind": "number", "label_edges": [1]}, "has no classes; leave out label_edges"),
        ({}, "give labels, the names of the classes, or label_edges"),
        ({"type": "tfds", "name": "a"}, "a dataset of type tfds is its own source"),
        (
            {
                "source": None,
                "type": "tfds",
                "name": "a",
                "validation_split": "test",
                "validation_source": {"type": "tfds", "name": "b"},
            },
            "give validation_split or validation_source, not both",
        ),
        (
            {"label_kind": "number", "validation_source": {"type": "jsonl", "paths": ["a"]}},
            "validation_source is what source is",
        ),
        (
            {
                "label_kind": "number",
                "validation_source": {"type": "jsonl", "paths": ["b"]},
                "validation_every": 5,
            },
            "validation_every=5 holds out examples of source, and validation_source has others",
        ),
    ],
)
def test_options_that_do_not_go_together(options, message):
    given = {"type": "labelled_texts", "source": {"type": "jsonl", "paths": ["a"]}, **options}
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(DatasetConfig).validate_python(given)


def test_labels_are_counted(reviews, tmp_path):
    short = {"type": "tfds", "name": reviews, "text": "sentence", "validation_split": "validation"}

    def counted(**options):
        (folder,) = build(tmp_path, **short, **options).folders.values()
        splits = describe_dataset(folder)["splits"]
        return {key: n for key, n in splits["train"].items() if key.startswith("label")}

    assert counted() == {"label negative": 2, "label positive": 2}
    topics = {"label": "topics", "label_kind": "classes", "labels": ["length", "wit"]}
    assert counted(**topics) == {"label length": 2, "label wit": 1}
    numbers = counted(label="stars", label_kind="number")
    assert numbers == {"label mean": 0.75, "label least": 0.0, "label most": 1.5}
