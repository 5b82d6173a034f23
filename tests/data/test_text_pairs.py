"""Pairs of texts become rows, also of passages of one text."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.data import DataConfig
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.text_pairs import TextPairsConfig
from jaxllm.data.tokenizer import ByteTokenizer

LENGTH = 12
DELIMITER = ByteTokenizer.delimiter_id
SOURCE = {"type": "jsonl", "paths": ["none.jsonl"]}


def config(**options):
    return TextPairsConfig.model_validate({"source": SOURCE} | options)


def passages(text, length):
    """The pairs of a text's passages, as text."""
    record = ExampleRecord({"text": text}, "here:1")
    tokenizer = ByteTokenizer()
    found = config(text_pair=None, passage_tokens=length).encode(record, tokenizer)
    return [tuple(tokenizer.decode(pair[name]) for name in ("text", "text_pair")) for pair in found]


def test_the_fields_of_a_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records = [{"text": f"ask {n}", "text_pair": f"answer {n} " + "x" * n} for n in range(8)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    data = DataConfig.model_validate(
        {
            "sequence_length": LENGTH,
            "global_batch_size": 4,
            "tokenizer": {"type": "byte"},
            "datasets": {
                "asked": config(source={"type": "jsonl", "paths": [str(path)]}, validation_every=0)
            },
            "root": str(tmp_path / "root"),
        }
    ).build()
    rows = data.examples["asked"]["train"]
    batch = rows.read([0, 5])
    for row, number in enumerate((0, 5)):
        for prefix, text in (("", f"ask {number}"), ("other_", f"answer {number} " + "x" * number)):
            ids = [DELIMITER, *text.encode()][:LENGTH]
            is_text = np.arange(LENGTH) < len(ids)
            filled = ids + [DELIMITER] * (LENGTH - len(ids))
            np.testing.assert_array_equal(batch[f"{prefix}tokens"][row], filled)
            np.testing.assert_array_equal(batch[f"{prefix}segment_ids"][row], is_text)
            positions = np.arange(LENGTH) * is_text
            np.testing.assert_array_equal(batch[f"{prefix}positions"][row], positions)
    np.testing.assert_array_equal(batch["loss_mask"], 1)
    np.testing.assert_array_equal(rows.sizes, [10, 11, 12, 12, 12, 12, 12, 12])
    assert rows.truncated == (5, 1 + 2 + 3 + 4 + 5)
    shapes = data.config.datasets["asked"].shapes(4, LENGTH)
    batch = data.train_loader(seed=0).batch(0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items()
    }


def test_passages_are_all_of_the_text_in_pairs_of_neighbours():
    text = "".join(chr(97 + n % 26) for n in range(47))
    for length, count in ((5, 4), (11, 2), (12, 1), (23, 1), (40, 1)):
        found = passages(text, length)
        assert len(found) == count
        assert "".join(part for pair in found for part in pair) == text
        sizes = [len(part) for pair in found for part in pair]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(length, 47 // 2)
    with pytest.raises(ValueError, match="here:1: 'text' is of a single token"):
        passages("x", 5)


def test_a_text_that_is_asked_about_is_alone():
    for options in ({}, {"text_pair": None, "passage_tokens": 3}):
        dataset, record = config(**options), ExampleRecord({"text": "a longer text"}, "here")
        (only,) = dataset.encode(record, ByteTokenizer(), is_labelled=False)
        batch = dataset.rows(table_of([only]), 20, tokenizer=ByteTokenizer()).read([0])
        assert set(batch) == {"tokens", "segment_ids", "positions", "loss_mask"}
        assert bytes(batch["tokens"][0][1:14].tolist()) == b"a longer text"


@pytest.mark.parametrize("options", [{"passage_tokens": 8}, {"text_pair": None}])
def test_pairs_are_given_or_made(options):
    with pytest.raises(ValidationError, match=r"give text_pair, .* or passage_tokens with"):
        config(**options)


def test_rows_without_place_for_text_are_refused():
    table = table_of([{"text": np.ones(3, np.int32)}])
    with pytest.raises(ValueError, match="sequence_length=1 leaves no place for text beside 1"):
        config().rows(table, 1, tokenizer=ByteTokenizer())


def test_what_a_tokenizer_learns_from():
    record = ExampleRecord({"text": "ask", "text_pair": "answer"}, "here:1")
    assert config().texts(record) == ["ask", "answer"]
    assert config(text_pair=None, passage_tokens=2).texts(record) == ["ask"]


def test_no_advice_that_is_no_option():
    record = ExampleRecord({"text": "x" * LENGTH, "text_pair": "y"}, "here:1")
    one = config()
    rows = one.rows(
        table_of(one.encode(record, ByteTokenizer())), LENGTH, tokenizer=ByteTokenizer()
    )
    (told,) = one.told([rows], name="asked", length=LENGTH)
    assert told.endswith("by 1 tokens in all; raise it")
