"""Sources and targets become rows: nothing is lost but what is too long, and that is counted."""

import json

import numpy as np
import pytest
from hf.tokenizer_folders import GOLDEN, found

from jaxllm.data import DataConfig, MissingData
from jaxllm.data.example_table import table_of
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.data.translations import TranslationsConfig, target_tokenizer

DELIMITER = ByteTokenizer.delimiter_id


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs.jsonl"
    records = [{"source": "s" * (1 + n % 7), "target": f"t{n}"} for n in range(20)]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def dataset(path, **options):
    given = {"source": {"type": "jsonl", "paths": [str(path)]}, "validation_every": 5, **options}
    return TranslationsConfig.model_validate(given)


def build(path, root, *, length=8, **options):
    return DataConfig.model_validate(
        {
            "sequence_length": length,
            "global_batch_size": 4,
            "tokenizer": {"type": "byte"},
            "datasets": {"pairs": dataset(path, **options)},
            "root": str(root),
        }
    ).build()


def test_every_example_is_once_a_row_with_the_token_that_ends_its_target(path, tmp_path):
    data = build(path, tmp_path)
    decode = ByteTokenizer().decode
    seen = []
    for rows in data.examples["pairs"].values():
        batch = rows.read(range(rows.num_rows))
        for row in range(rows.num_rows):
            source = batch["encoder_tokens"][row][batch["encoder_mask"][row] > 0]
            target = batch["targets"][row][batch["loss_mask"][row] > 0]
            assert source[0] == target[-1] == DELIMITER
            assert DELIMITER not in target[:-1]
            assert len(source) == rows.sizes[row]
            seen.append((decode(source), decode(target)))
            assert decode(rows.target(row)) == decode(target)
    assert sorted(seen) == sorted(("s" * (1 + n % 7), f"t{n}") for n in range(20))
    assert data.truncations() == []


def test_what_is_too_long_is_counted_and_has_no_end(path, tmp_path):
    data = build(path, tmp_path, length=3)
    (told,) = data.truncations()
    # Two of three positions are left to a source, and two to a target.
    sources = [max(1 + n % 7 - 2, 0) for n in range(20)]
    targets = [max(len(f"t{n}") - 2, 0) for n in range(20)]
    lost = [one + other for one, other in zip(sources, targets, strict=True)]
    assert f"{sum(map(bool, lost))} of 20 examples are longer" in told
    assert f"by {sum(lost)} tokens in all" in told
    rows = data.examples["pairs"]["train"]
    batch = rows.read(range(rows.num_rows))
    is_whole = np.array([len(rows.target(row)) <= 2 for row in range(rows.num_rows)])
    ends = (batch["targets"] == DELIMITER) & (batch["loss_mask"] > 0)
    np.testing.assert_array_equal(ends.any(axis=1), is_whole)


def test_without_targets_there_are_sources_to_translate(path):
    (one,) = dataset(path, prefix="to Spanish: ").encode(
        next(iter(dataset(path).source.records())), ByteTokenizer(), is_labelled=False
    )
    assert ByteTokenizer().decode(one["source"]) == "to Spanish: s"
    rows = dataset(path).rows(table_of([one]), 16, tokenizer=ByteTokenizer())
    assert "targets" not in rows.read([0])


def test_a_batch_has_the_shapes_that_the_format_tells(path, tmp_path):
    batch = build(path, tmp_path).train_loader(seed=0).batch(0)
    told = dataset(path).shapes(4, 8)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (field.shape, field.dtype) for name, field in told.items()
    }


def test_what_is_no_pair_is_told_with_its_line(path, tmp_path):
    path.write_text(path.read_text() + '\n{"source": "s", "target": " "}')
    with pytest.raises(ValueError, match=r"datasets\.pairs\.target: .*:21: 'target' is empty"):
        build(path, tmp_path)
    path.write_text('{"source": "s"}')
    with pytest.raises(ValueError, match=r":1: there is no field 'target' \(fields: 'source'\)"):
        build(path, tmp_path)
    path.unlink()
    with pytest.raises(MissingData, match="matches no file"):
        build(path, tmp_path)


def test_a_tokenizer_learns_from_what_is_not_held_out(path):
    one = dataset(path, group="source", validation_every=7)  # sources of 7 letters
    texts = [text for record in one.records_of_training() for text in one.texts(record)]
    assert "sssssss" not in texts
    assert {"s", "t0"} <= set(texts)


def test_of_two_vocabularies_targets_have_the_second(path):
    """Marian cuts the texts of each language by a model of its own."""
    tokenizer = found(GOLDEN / "marian_pieces")
    (one,) = dataset(path).encode(next(iter(dataset(path).source.records())), tokenizer)
    assert one["source"].tolist() == tokenizer.encode("s").tolist()
    assert one["target"].tolist() == tokenizer.target.encode("t0").tolist()
    assert target_tokenizer(ByteTokenizer()).vocab_size == 257
