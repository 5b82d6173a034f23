"""What a tokenizer learns from datasets of examples: the texts that they encode, of every kind."""

import json
from typing import get_args

import numpy as np
import pytest

from jaxllm.data import DataConfig
from jaxllm.data.datasets import _LongForm
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tokenizer import ByteTokenizer

WORDS = ["Mrs", "Am\u00e9lie", "went", "."]
TAGS = ["O", "B-PER", "O", "O"]
ANSWERS = [{"text": "ships", "answer_start": 10}]
# What each kind of dataset is given besides its source, one record, and the texts of this.
KINDS = {
    "labelled_texts": (
        {"labels": ["a", "b"], "text_pair": "other"},
        {"text": "one", "other": "two", "label": "a"},
        ["one", "two"],
    ),
    "text_pairs": ({}, {"text": "one", "text_pair": "two"}, ["one", "two"]),
    "translations": ({}, {"source": "one", "target": "uno"}, ["one", "uno"]),
    "captions": ({"size": 2}, {"image": b"", "text": "a cat"}, ["a cat"]),
    "chats": ({}, {"prompt": "Why?", "completion": "So."}, ["Why?", "So."]),
    "tagged_texts": (
        {"tags": ["O", "B-PER"]},
        {"words": WORDS, "tags": TAGS},
        ["Mrs Am\u00e9lie went ."],
    ),
    "questions": (
        {},
        {"question": "What?", "context": "There are ships.", "answers": ANSWERS},
        ["What?", "There are ships."],
    ),
    "pictures": ({"size": 2, "labels": ["a", "b"]}, {"file": b"", "folder": "a"}, []),
}


def dataset(kind, **source):
    options, _, _ = KINDS[kind]
    given = {"type": kind, "source": {"type": "jsonl", "paths": ["a.jsonl"], **source}, **options}
    data = {"sequence_length": 8, "global_batch_size": 2, "datasets": {"it": given}}
    return DataConfig.model_validate(data).datasets["it"]


def test_every_kind_of_examples_is_whole_and_has_its_texts_here():
    kinds = [kind for kind in get_args(get_args(_LongForm)[0]) if issubclass(kind, ExamplesConfig)]
    assert {kind.model_fields["type"].default for kind in kinds} == KINDS.keys()
    assert not [kind for kind in kinds if kind.__abstractmethods__]
    assert {"encode", "texts", "rows", "shapes"} <= ExamplesConfig.__abstractmethods__


@pytest.mark.parametrize("kind", KINDS)
def test_the_texts_of_a_record_are_those_that_are_encoded(kind):
    _, fields, expected = KINDS[kind]
    one, record = dataset(kind), ExampleRecord(fields, "a.jsonl:7")
    assert one.texts(record) == expected
    assert bool(expected) == one.has_text
    if kind in ("captions", "chats", "pictures"):  # these need a picture, or a template
        return
    (encoded,) = one.encode(record, ByteTokenizer())
    of_tokens = [values for name, values in encoded.items() if one.columns[name] == "tokens"]
    assert [ByteTokenizer().decode(ids) for ids in of_tokens] == expected


def test_a_text_with_places_of_entities_is_learned_as_it_is_encoded():
    record = ExampleRecord({"text": " Jo went ", "entities": []}, "a.jsonl:7")
    one = dataset("tagged_texts")
    (encoded,) = one.encode(record, ByteTokenizer())
    assert one.texts(record) == ["Jo went"] == [ByteTokenizer().decode(encoded["tokens"])]


def test_what_nobody_says_is_not_learned():
    called = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    messages = [{"role": "user", "content": "1 + 1?"}, called]
    record = ExampleRecord({"messages": messages}, "a.jsonl:7")
    assert dataset("chats").texts(record) == ["1 + 1?"]


def built(root, source, *, type="questions", **options):
    given = {"type": type, "source": source, "validation_every": 0, **options}
    data = {
        "sequence_length": 64,
        "global_batch_size": 2,
        "datasets": {"it": given},
        "tokenizer": {"type": "sentencepiece", "vocab_size": 320},
        "root": str(root),
    }
    return DataConfig.model_validate(data).build()


def test_a_tokenizer_is_trained_from_words_and_from_questions(tmp_path):
    sentence = "the old house stands near the cold river and the other mother "
    lines = []
    for number in range(60):
        text = f"{number} {sentence[number % 20 :]}"
        answers = [{"text": str(number), "answer_start": 0}]
        asked = {"question": f"which {number}?", "context": text, "answers": answers}
        words = text.split()
        lines.append({**asked, "words": words, "tags": ["O"] * len(words)})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = {"type": "jsonl", "paths": [str(tmp_path / "a.jsonl")]}
    for kind, options in (("questions", {}), ("tagged_texts", {"tags": ["O"]})):
        data = built(tmp_path / "root", source, type=kind, **options)
        assert data.tokenizer.vocab_size == 320
        assert len(data.tokenizer.encode(" the")) == 1, "it has learned a word of theirs"
        assert data.examples["it"]["train"].num_examples == len(lines)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"data\.datasets\.it\.source: it has no record with text"):
        built(tmp_path / "root", {"type": "jsonl", "paths": [str(empty)]})


def test_pictures_alone_train_no_tokenizer(tmp_path):
    source = {"type": "files", "paths": [str(tmp_path / "*")]}
    with pytest.raises(ValueError, match="there is no corpus to train the tokenizer on"):
        built(tmp_path, source, type="pictures", size=2, labels=["a", "b"])


def test_texts_in_other_files_make_another_tokenizer(tmp_path):
    """The same table and files, but another cell says which file is whose text."""
    words = "alpha beta gamma delta omega kappa sigma lambda theta iota".split()
    rng = np.random.default_rng(0)
    for name in "xy":
        text = " ".join(rng.choice(words[: 4 if name == "x" else 10], 3000))
        (tmp_path / f"{name}.txt").write_text(text)
    table = tmp_path / "a.csv"
    table.write_text("one,two,label\nx,x,a\ny,x,b\nx,y,a\ny,y,b\ny,x,a\n")
    fingerprints = [
        built(
            tmp_path,
            {
                "type": "table",
                "paths": [str(table)],
                "files": {"text": f"{tmp_path}/{{{cell}}}.txt"},
            },
            type="labelled_texts",
            labels=["a", "b"],
        ).tokenizer.fingerprint
        for cell in ("one", "two")
    ]
    assert fingerprints[0] != fingerprints[1]
    assert len(list((tmp_path / "tokenizers").glob("sentencepiece-*"))) == 2
