"""Labelled texts become rows: what is read, how it is split, and that every host reads the same."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.data import MissingData, TrainLoader
from jaxllm.data.example_frame import frame_of
from jaxllm.data.huggingface_tokenizer import EncodedText
from jaxllm.data.tokenizer import ByteTokenizer, HuggingFaceTokenizerConfig

from .labelled import LENGTH, build, dataset, decoded, records, write_jsonl

TOKENIZERS = Path(__file__).parents[1] / "golden" / "hf_tokenizers"
DELIMITER = ByteTokenizer.delimiter_id


@pytest.fixture
def texts(tmp_path):
    return write_jsonl(tmp_path / "texts.jsonl", records())


def test_no_group_is_on_both_sides_and_every_text_is_on_one(texts, tmp_path):
    data = build(texts, tmp_path, group="of", validation_every=5, length=256)
    group_of = {record["text"]: record["of"] for record in records()}
    sides = {
        split: [group_of[decoded(rows, row)] for row in range(rows.num_rows)]
        for split, rows in data.examples["texts"].items()
    }
    assert not set(sides["train"]) & set(sides["validation"])
    assert len(set(sides["train"])) == 6
    assert set(sides["validation"]) == {"g4"}
    assert len(sides["train"]) + len(sides["validation"]) == 40


def test_parts_of_a_text_are_all_of_it_once_with_its_class_and_side(texts, tmp_path):
    data = build(texts, tmp_path, is_cut=True, validation_every=4)
    found = {}
    for rows in data.examples["texts"].values():
        whole, batch = "", rows.read(range(rows.num_rows))
        assert batch["segment_ids"].sum(axis=1).max() == LENGTH
        for row in range(rows.num_rows):
            part = decoded(rows, row)
            assert 0 < len(part) < LENGTH
            if part.startswith("text "):
                whole = part
            else:
                whole += part
            found[whole] = "ab"[batch["label"][row]]
    for record in records():
        assert found[record["text"]] == record["label"]
        np.testing.assert_array_equal(rows.sizes, batch["segment_ids"].sum(axis=1))
    assert data.truncations() == []


def test_the_fields_of_a_row(texts, tmp_path):
    data = build(texts, tmp_path, validation_every=0)
    batch = data.examples["texts"]["train"].read([0, 9])
    text = b"text 0 "
    ids = [DELIMITER, *text, *[DELIMITER] * (LENGTH - 1 - len(text))]
    is_text = np.arange(LENGTH) < 1 + len(text)
    np.testing.assert_array_equal(batch["tokens"][0], ids)
    np.testing.assert_array_equal(batch["segment_ids"][0], is_text)
    np.testing.assert_array_equal(batch["positions"][0], np.arange(LENGTH) * is_text)
    np.testing.assert_array_equal(batch["label"], [0, 1])
    np.testing.assert_array_equal(batch["loss_mask"], [1, 1])
    np.testing.assert_array_equal(batch["tokens"][1], [DELIMITER, *b"text 9 xxxxxxxx"])
    dtypes = {name: field.dtype for name, field in batch.items()}
    ints = dict.fromkeys(("tokens", "segment_ids", "positions", "label"), np.int32)
    assert dtypes == {**ints, "loss_mask": np.float32}


def test_what_is_truncated_is_counted(texts, tmp_path):
    data = build(texts, tmp_path)
    lost = [len(record["text"]) + 1 - LENGTH for record in records()]
    count, tokens = sum(n > 0 for n in lost), sum(n for n in lost if n > 0)
    (told,) = data.truncations()
    assert f"{count:,} of 40 examples" in told
    assert f"by {tokens:,} tokens" in told
    assert "data.datasets.texts.is_cut" in told
    assert build(texts, tmp_path, length=256).truncations() == []


def test_of_a_pair_the_longer_text_is_cut_first(tmp_path):
    lengths = [(2, 3), (40, 3), (3, 40), (40, 40), (6, 40)]
    path = write_jsonl(
        tmp_path / "pairs.jsonl",
        [{"text": "a" * a, "other": "b" * b, "label": "a"} for a, b in lengths],
    )
    data = build(path, tmp_path, text_pair="other", validation_every=0)
    rows = data.examples["texts"]["train"]
    # Two delimiters leave 14 tokens.
    kept = [tuple(map(len, rows.text_tokens(row))) for row in range(5)]
    assert kept == [(2, 3), (11, 3), (3, 11), (7, 7), (6, 8)]
    batch = rows.read([0])
    np.testing.assert_array_equal(batch["token_types"][0, :7], [0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch["tokens"][0, :7], [DELIMITER, *b"aa", DELIMITER, *b"bbb"])
    (told,) = data.truncations()
    assert "is_cut" not in told, "a pair is not cut"


@pytest.mark.parametrize("kind", ["bert_uncased", "roberta_merges", "t5_pieces"])
@pytest.mark.parametrize("texts", [("War, peace",), ("War, peace", "a law")])
def test_special_tokens_stand_as_the_tokenizer_puts_them(kind, texts):
    tokenizer = HuggingFaceTokenizerConfig(path=str(TOKENIZERS / kind)).build()
    expected = tokenizer.encode_with_specials(*texts)
    frame = frame_of(tokenizer, num_texts=len(texts))
    ids, types = list(frame.pieces[0].ids), list(frame.pieces[0].types)
    for text, type_, piece in zip(texts, frame.types, frame.pieces[1:], strict=True):
        own = tokenizer.encode(text)
        ids += [*own, *piece.ids]
        types += [type_] * len(own) + [*piece.types]
    np.testing.assert_array_equal(ids, expected.ids)
    np.testing.assert_array_equal(types, expected.type_ids)
    assert frame.num_special > 0
    assert tokenizer.decode([frame.padding_id]) in ("[PAD]", "<pad>")


class Joining(ByteTokenizer):
    """It encodes a text that stands behind a special token in another way."""

    def encode_with_specials(self, text, pair=None):
        ids = np.asarray([DELIMITER, *text.upper().encode(), DELIMITER])
        return EncodedText(ids, np.zeros_like(ids))


def test_a_tokenizer_whose_texts_are_not_found_again_is_refused():
    with pytest.raises(ValueError, match=r"in another way than the text alone.*data\.tokenizer"):
        frame_of(Joining(), num_texts=1)


def test_a_row_is_the_same_for_any_number_of_hosts(texts, tmp_path):
    data = build(texts, tmp_path, is_cut=True, validation_every=3)
    whole = data.train_loader(seed=3)
    held_out = data.validation_loaders()["texts"]
    for hosts in (2, 4):
        of_hosts = [list(range(host, 8, hosts)) for host in range(hosts)]
        parts = [(mine, data.train_loader(seed=3, rows=mine)) for mine in of_hosts]
        for step in (0, 1, 7):  # beyond the first epoch
            expected = whole.batch(step)
            for mine, loader in parts:
                for name, field in loader.batch(step).items():
                    np.testing.assert_array_equal(field, expected[name][mine], err_msg=name)
        for mine in of_hosts:
            loader = data.validation_loaders(rows=mine)["texts"]
            assert len(loader) == len(held_out)
            for number, expected in enumerate(held_out):
                for name, field in loader.batch(number).items():
                    np.testing.assert_array_equal(field, expected[name][mine], err_msg=name)


def test_validation_has_each_row_once_and_the_rest_is_not_scored(texts, tmp_path):
    data = build(texts, tmp_path, is_cut=True, validation_every=3)
    rows, loader = data.examples["texts"]["validation"], data.validation_loaders()["texts"]
    assert rows.num_rows % 8
    batches = list(loader)
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert len(whole["label"]) == 8 * len(batches)
    is_scored = whole["loss_mask"] > 0
    np.testing.assert_array_equal(np.flatnonzero(is_scored), np.arange(rows.num_rows))
    expected = rows.read(range(rows.num_rows))
    for name, field in expected.items():
        np.testing.assert_array_equal(whole[name][is_scored], field, err_msg=name)


def test_batches_go_on_where_a_state_says_and_other_rows_are_refused(texts, tmp_path):
    first = build(texts, tmp_path).train_loader(seed=0)
    state = json.loads(json.dumps(first.state(3)))
    build(texts, tmp_path).train_loader(seed=0).check_state(state)
    for changed in ({"is_cut": True}, {"labels": ("b", "a")}, {"validation_every": 4}):
        other = build(texts, tmp_path, **changed).train_loader(seed=0)
        assert isinstance(other, TrainLoader)
        with pytest.raises(ValueError, match=r"data\.datasets\.texts\.fingerprint"):
            other.check_state(state)


def test_it_is_made_once_and_then_needs_no_source(texts, tmp_path):
    data = build(texts, tmp_path)
    (folder,) = data.folders.values()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = build(texts, tmp_path, length=32, is_cut=True)
    assert again.folders == data.folders
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    write_jsonl(texts, records(41))
    assert build(texts, tmp_path).folders != data.folders
    texts.unlink()
    with pytest.raises(MissingData, match=r"data\.datasets\.texts\.source\.paths: .*no file"):
        data.config.build()
    kept = data.config.build(folders=data.folders)
    for name, field in kept.train_loader(seed=0).batch(0).items():
        np.testing.assert_array_equal(field, data.train_loader(seed=0).batch(0)[name])


def test_records_in_a_bucket(texts, bucket, tmp_path):
    bucket.put("texts/a.jsonl", texts.read_bytes())
    there = {"type": "jsonl", "paths": [f"{bucket.url}/texts/*.jsonl"]}
    here, found = (build(texts, tmp_path / at, **given) for at, given in
                   (("here", {}), ("there", {"source": there})))  # fmt: skip
    for name, field in here.train_loader(seed=0).batch(0).items():
        np.testing.assert_array_equal(field, found.train_loader(seed=0).batch(0)[name])
    with pytest.raises(ValueError, match="examples are kept on a disk of each host"):
        build(texts, f"{bucket.url}/root")


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        ("text.bin", lambda raw: raw[:-1], "has .* bytes, not those of"),
        ("text.bin", None, "has 0 bytes, not those of"),
        ("text.stops.npy", lambda raw: raw[:-1], "cannot be read"),
        ("text.stops.npy", lambda raw: b"", "cannot be read"),
        ("text.stops.npy", lambda raw: raw[9:], "cannot be read"),
        ("text.stops.npy", lambda raw: raw[:-8] + bytes(8), "does not end one example behind"),
        ("text.stops.npy", lambda raw: raw[:-1] + b"\x7f", "does not end one example behind"),
        ("text.stops.npy", lambda raw: saved(np.zeros(39, np.int64)), "does not have 40 numbers"),
        ("label.stops.npy", None, "cannot be read"),
        ("held_out.npy", lambda raw: raw[:-1], "cannot be read"),
        ("examples.json", lambda raw: raw[:-9], "is not what this version writes .*JSON"),
        ("held_out.npy", lambda raw: raw[:-1] + b"\0", "holds out 1, not 2"),
        ("held_out.npy", lambda raw: saved(np.zeros(40)), "does not have 40 numbers of type bool"),
    ],
)
def test_a_damaged_folder_is_told_with_its_file(texts, tmp_path, name, damage, problem):
    (folder,) = build(texts, tmp_path).folders.values()
    path = folder / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    told = rf"data\.datasets\.texts: {re.escape(str(path))} {problem}.* damaged: remove the folder"
    with pytest.raises(ValueError, match=told):
        build(texts, tmp_path)


def saved(values):
    """The bytes of a file of numbers."""
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"label": "c"}, {}, r"label: FILE:3: 'label' is 'c', which is not one of 'a', 'b'; add"),
        ({"label": None}, {}, r"label: FILE:3: 'label' is None; give text or a whole number"),
        ({"text": " \n"}, {}, r"text: FILE:3: 'text' is empty; give a text"),
        ({"text": 7}, {}, r"text: FILE:3: 'text' is a int, not text"),
        ({"text": "\ud800"}, {}, r"text: FILE:3: 'text' has a lone surrogate"),
        ({}, {"text": "body"}, r"text: FILE:3: there is no field 'body' \(fields: 'text', 'label'"),
        ({}, {"group": "who"}, r"group: FILE:3: there is no field 'who'"),
        ({}, {"text_pair": "other"}, r"text_pair: FILE:3: there is no field 'other'"),
        (
            {"label": "soon"},
            {"labels": None, "label_edges": [3]},
            r"label: FILE:3: 'label' is 'soon'; give a number",
        ),
    ],
)
def test_a_record_that_is_wrong_is_told_with_file_and_line(tmp_path, record, options, message):
    given = records(3)
    fields = {name: "1" for name in options.values() if isinstance(name, str)}
    numbers = {"label": 1} if "label_edges" in options else {}
    rows = [{**fields, **one, **numbers} for one in given]
    rows[2] = {**given[2], **record}
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join([lines[0], lines[1], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=message.replace("FILE", str(path))) as told:
        build(path, tmp_path / "root", validation_every=0, **options)
    assert str(told.value).startswith("data.datasets.texts.")
    assert not list((tmp_path / "root").glob("texts*")), "nothing half made is left"


def test_classes_of_a_number(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [{"text": "t", "label": year} for year in (1790, 1860.5, 1861, "1932", 1933, 2020)],
    )
    one = dataset(path, labels=None, label_edges=(1861, 1933))
    encoded = [one.encode(record, ByteTokenizer()) for record in one.source.records()]
    assert [int(example["label"][0]) for (example,) in encoded] == [0, 0, 1, 1, 2, 2]
    assert one.class_names == ("below 1861", "1861 to 1933", "1933 and above")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, "give labels, the names of the classes, or label_edges"),
        ({"label_edges": [1]}, "give labels, the names of the classes, or label_edges"),
        ({"labels": ["a", "a"]}, "labels: a name is given twice"),
        ({"labels": None, "label_edges": [2, 1]}, "label_edges: give them in ascending order"),
        ({"is_cut": True, "text_pair": "b"}, "is_cut: a pair of texts is not cut"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValidationError, match=message):
        dataset("a.jsonl", **options)


def test_too_few_examples_to_hold_one_out_and_too_short_rows(texts, tmp_path):
    with pytest.raises(ValueError, match=r"texts\.validation_every: none of the 40 examples is"):
        build(texts, tmp_path, validation_every=50)
    with pytest.raises(ValueError, match=r"data\.sequence_length=1 leaves no place for text"):
        build(texts, tmp_path, length=1)
