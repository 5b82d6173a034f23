"""Tagged words become rows: each word's tag is where its first token is, in one row."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from jaxllm.data import DataConfig
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_conll import ConllExamplesConfig
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig, source_of
from jaxllm.data.example_table import table_of
from jaxllm.data.tagged_rows import cut
from jaxllm.data.tagged_texts import TaggedTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer, HuggingFaceTokenizerConfig

TOKENIZERS = Path(__file__).parents[1] / "golden" / "hf_tokenizers"
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORDS = ["Mrs", "Am\u00e9lie", "N.", "went", "to", "St.", "\u200b", "Moritz", "(", "1990s", ")"]
LABELS = [0, 1, 2, 0, 0, 3, 4, 4, 0, 0, 0]


def dataset(**options):
    given = {"source": {"type": "conll", "paths": ["a.conll"]}, "tags": TAGS, **options}
    return TaggedTextsConfig.model_validate(given)


def record(**fields):
    return ExampleRecord(fields, "a.jsonl:7")


def tokenizer_of(kind):
    if kind == "byte":
        return ByteTokenizer()
    return HuggingFaceTokenizerConfig(path=str(TOKENIZERS / kind)).build()


def rows_of(examples, *, length, tokenizer=None, **options):
    return dataset(**options).rows(
        table_of(examples), length, tokenizer=tokenizer or ByteTokenizer()
    )


def encoded(tokenizer=None, *, is_labelled=True, **fields):
    (one,) = dataset().encode(
        record(**fields), tokenizer or ByteTokenizer(), is_labelled=is_labelled
    )
    return one


@pytest.mark.parametrize("kind", ["byte", "bert_uncased", "roberta_merges", "xlm_roberta_pieces"])
def test_each_word_has_the_tokens_that_it_has_behind_a_space(kind):
    """As transformers encodes words that are given one by one; \u200b is nothing to BERT."""
    tokenizer = tokenizer_of(kind)
    one = encoded(tokenizer, words=WORDS, tags=[TAGS[n] for n in LABELS])
    np.testing.assert_array_equal(one["label"], LABELS)
    parts = np.split(one["tokens"], one["starts"][1:])
    assert one["starts"][0] == 0
    for number, (word, part) in enumerate(zip(WORDS, parts, strict=True)):
        before = "" if number == 0 else " "
        np.testing.assert_array_equal(part, tokenizer.encode(before + word), err_msg=word)
    assert (len(parts[WORDS.index("\u200b")]) == 0) == (kind == "bert_uncased")


@pytest.mark.parametrize("length", [9, 12, 16, 80])
@pytest.mark.parametrize("kind", ["byte", "bert_uncased"])
def test_rows_have_every_word_once_with_its_tag(kind, length):
    tokenizer = tokenizer_of(kind)
    tags = [TAGS[n] for n in LABELS]
    examples = [
        encoded(tokenizer, words=WORDS[:count], tags=tags[:count]) for count in (11, 1, 4, 11)
    ]
    rows = rows_of(examples, length=length, tokenizer=tokenizer)
    batch = rows.read(range(rows.num_rows))
    shapes = dataset().shapes(rows.num_rows, length)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items() if name in batch
    }
    found = [[] for _ in examples]
    for row in range(rows.num_rows):
        places = rows.places(row)
        there = places[places >= 0]
        np.testing.assert_array_equal(np.flatnonzero(batch["loss_mask"][row]), there)
        assert (np.diff(there) > 0).all()
        labels = [int(batch["label"][row, p]) if p >= 0 else None for p in places]
        found[rows.example_of(row)] += labels
        assert batch["segment_ids"][row].sum() == rows.sizes[row] <= length
    for example, labels in zip(examples, found, strict=True):
        has_token = np.diff(np.append(example["starts"], len(example["tokens"]))) > 0
        expected = np.where(has_token, example["label"], -1).tolist()
        assert [-1 if label is None else label for label in labels] == expected
    room = length - (1 if kind == "byte" else 2)
    words = np.concatenate(
        [np.diff(np.append(one["starts"], len(one["tokens"]))) for one in examples]
    )
    assert rows.truncated[1] == np.maximum(words - room, 0).sum()


def test_a_text_is_cut_at_words_where_a_row_is_full():
    # Words of 3, 2, 0, 4, 11, 0 and 2 tokens; one of 7; and one of none before one of a token.
    texts = [np.array([0, 3, 5, 5, 9, 20, 20]), np.array([0]), np.array([0, 0])]
    starts = table_of([{"starts": words} for words in texts])["starts"]
    found = cut(starts, np.array([22, 7, 1]), 6)
    assert found[:, :3].tolist() == [
        *([0, 0, 3], [0, 3, 4], [0, 4, 5], [0, 5, 7]),
        [1, 0, 1],
        [2, 0, 2],
    ]
    assert found[:, 3:].tolist() == [[0, 5], [5, 9], [9, 20], [20, 22], [0, 7], [0, 1]]


def test_no_text_is_cut_where_another_part_would_do():
    """Against the definition, word by word."""
    rng = np.random.default_rng(0)
    sizes = [rng.integers(0, 6, rng.integers(1, 30)) for _ in range(100)]
    before = [np.cumsum(words) - words for words in sizes]
    starts = table_of([{"starts": starts} for starts in before])["starts"]
    num_tokens = np.array([words.sum() for words in sizes])
    for room in (1, 4, 9, 500):
        expected = []
        for number, words in enumerate(sizes):
            first = 0
            while first < len(words):
                stop = first + 1
                while stop < len(words) and (
                    not words[first:stop].any() or words[first : stop + 1].sum() <= room
                ):
                    stop += 1
                ends = int(words[:first].sum()), int(words[:stop].sum())
                expected.append([number, first, stop, *ends])
                first = stop
        np.testing.assert_array_equal(cut(starts, num_tokens, room), expected)


def test_a_text_with_the_places_of_its_entities():
    text = "  Mrs Jo-Ann went to St. Moritz."
    entities = [
        {"start": text.index("St"), "end": len(text) - 1, "label": "LOC"},
        {"start": text.index("Jo"), "end": text.index(" went"), "label": "PER"},
    ]
    one = encoded(text=text, entities=entities)
    # Mrs, Jo, -, Ann, went, to, St, ., Moritz, .
    np.testing.assert_array_equal(one["label"], [0, 1, 2, 2, 0, 0, 3, 4, 4, 0])
    asked = encoded(text=text, is_labelled=False)
    np.testing.assert_array_equal(asked["tokens"], one["tokens"])
    found, places = rows_of([asked], length=64).words(0)
    assert found == text
    assert [text[a:b] for a, b in places[:, :2]] == "Mrs Jo - Ann went to St . Moritz .".split()
    np.testing.assert_array_equal(places[:, :2], places[:, 2:])


def test_a_tag_may_be_its_number():
    one = encoded(words=["a", "b"], tags=[2, "B-LOC"])
    np.testing.assert_array_equal(one["label"], [2, 3])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"a\.jsonl:7: there is no field 'words'"),
        ({"words": "a b", "tags": ["O"]}, r"a\.jsonl:7: 'words' is a str, not a list"),
        ({"words": ["a", 3], "tags": ["O", "O"]}, r"a\.jsonl:7: words\[1\] is 3, not text"),
        ({"words": ["a", "\ud800"], "tags": ["O", "O"]}, r"words\[1\] has a lone surrogate"),
        ({"words": [" ", ""], "tags": ["O", "O"]}, r"a\.jsonl:7: 'words' has no word"),
        ({"words": ["a", "b"], "tags": ["O"]}, r"a\.jsonl:7: 1 'tags', but 2 'words'"),
        ({"words": ["a", "b"]}, r"a\.jsonl:7: there is no field 'tags'"),
        ({"words": ["a", "b"], "tags": ["O", "X"]}, r"a\.jsonl:7: word 1, 'b', has the tag 'X'"),
        ({"words": ["a", "b"], "tags": ["O", 5]}, r"a\.jsonl:7: word 1, 'b', has the tag 5"),
        ({"text": "a b"}, r"a\.jsonl:7: there is no field 'entities'"),
        ({"text": "a b", "entities": [{"start": 0, "end": 1}]}, r"entities\[0\] has no 'label'"),
        (
            {"text": "a b", "entities": [{"start": 0, "end": 1, "label": "ORG"}]},
            r"entities\[0\] has the label 'ORG', but `tags` has no B-ORG",
        ),
        (
            {"text": "ab c", "entities": [{"start": 1, "end": 2, "label": "PER"}]},
            r"entities\[0\], from 1 to 2, does not begin and end where words do",
        ),
        (
            {
                "text": "a b c",
                "entities": [
                    {"start": 2, "end": 5, "label": "PER"},
                    {"start": 0, "end": 3, "label": "LOC"},
                ],
            },
            "entities 0 and 1, in order of their places, overlap",
        ),
    ],
)
def test_records_that_are_no_tagged_texts_are_named(fields, message):
    with pytest.raises(DatasetError, match=message):
        encoded(**fields)


CONLL = """-DOCSTART- -X- O

EU NNP B-ORG
rejects\tVBZ   O
# NNP O\r

Am\u00e9lie\u00a0N. NNP B-PER
"""


@pytest.mark.parametrize("name", ["a.conll", "a.conll.gz"])
def test_columns_are_words_and_tags(tmp_path, name):
    path = tmp_path / name
    raw = CONLL.encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    source = source_of(path)
    assert isinstance(source, ConllExamplesConfig)
    records = list(source.records())
    assert [one.where for one in records] == [f"{path}:3", f"{path}:7"]
    assert records[0].fields == {"words": ["EU", "rejects", "#"], "tags": ["B-ORG", "O", "O"]}
    assert records[1].fields == {"words": ["Am\u00e9lie\u00a0N."], "tags": ["B-PER"]}
    (tmp_path / "b.conll").write_text("a\n\n\nb\nc")
    asked = [one.fields for one in source_of(tmp_path / "b.conll").records()]
    assert asked == [{"words": ["a"]}, {"words": ["b", "c"]}]


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"a O\nb\n", r"a\.conll:2: 1 columns, but 2"), (b"a O\n\xff O\n", r"a\.conll:2: not UTF-8")],
)
def test_lines_that_differ_are_named(tmp_path, raw, message):
    path = tmp_path / "a.conll"
    path.write_bytes(raw)
    source = TypeAdapter(ExampleSourceConfig).validate_python(
        {"type": "conll", "paths": [str(path)]}
    )
    with pytest.raises(DatasetError, match=message):
        list(source.records())


def test_what_is_read_from_disk_is_what_was_written(tmp_path):
    lines = [{"words": WORDS[:n], "tags": [TAGS[i] for i in LABELS[:n]]} for n in range(1, 12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = DataConfig.model_validate(
        {
            "sequence_length": 16,
            "global_batch_size": 4,
            "tokenizer": {"type": "byte"},
            "datasets": {
                "tags": dataset(
                    source={"type": "jsonl", "paths": [str(tmp_path / "a.jsonl")]},
                    validation_every=0,
                )
            },
            "root": str(tmp_path),
        }
    ).build()
    rows = data.examples["tags"]["train"]
    expected = rows_of([encoded(**line) for line in lines], length=16)
    batch, other = (one.read(range(expected.num_rows)) for one in (rows, expected))
    for name, field in other.items():
        np.testing.assert_array_equal(batch[name], field, err_msg=name)
