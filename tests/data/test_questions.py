"""Questions become rows: windows cover each context, and an answer is found again by its tokens."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig, source_of
from jaxllm.data.example_table import table_of
from jaxllm.data.questions import QuestionsConfig
from jaxllm.data.tokenizer import ByteTokenizer, HuggingFaceTokenizerConfig

TOKENIZERS = Path(__file__).parents[1] / "golden" / "hf_tokenizers"
CONTEXT = "  In 1990, Am\u00e9lie (of Br\u00fbl\u00e9e) had 1,200 ships \u2014 and no \u6771\u4eac."
ANSWERS = ["1990", "Am\u00e9lie", "Am\u00e9lie (of Br\u00fbl\u00e9e)", "1,200", "\u6771\u4eac."]
KINDS = ["byte", "bert_uncased", "roberta_merges"]


def dataset(**options):
    given = {"source": {"type": "squad", "paths": ["a.json"]}, **options}
    return QuestionsConfig.model_validate(given)


def tokenizer_of(kind):
    if kind == "byte":
        return ByteTokenizer()
    return HuggingFaceTokenizerConfig(path=str(TOKENIZERS / kind)).build()


def record(answer=None, context=CONTEXT, question="How many?", **fields):
    start = context.index(answer) if answer else None
    told = [{"text": answer, "answer_start": start}] if answer else []
    given = {"question": question, "context": context, "answers": told, **fields}
    return ExampleRecord(given, "a.jsonl:7")


def encoded(tokenizer, *records, **options):
    given = dataset(has_unanswerable=True, **options)
    return [given.encode(one, tokenizer)[0] for one in records]


def rows_of(examples, *, length, tokenizer, **options):
    return dataset(**options).rows(table_of(examples), length, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_found_again_by_its_tokens(kind):
    tokenizer = tokenizer_of(kind)
    examples = encoded(tokenizer, *map(record, ANSWERS), record())
    rows = rows_of(examples, length=200, tokenizer=tokenizer)
    assert rows.num_rows == len(examples)
    labels = rows.read(range(rows.num_rows))["label"]
    for row, answer in enumerate(ANSWERS):
        window = rows.window(row)
        text, places = rows.text(row)
        assert text == CONTEXT
        first, last = labels[row] - window.place + window.first
        assert text[places[first, 0] : places[last, 1]] == answer
        assert rows.answers(row) == [answer]
    np.testing.assert_array_equal(labels[-1], [0, 0])
    assert rows.answers(len(ANSWERS)) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("length", "overlap"), [(20, 4), (24, 1000), (31, 0)])
def test_windows_cover_the_context_and_overlap(kind, length, overlap):
    tokenizer = tokenizer_of(kind)
    records = [record("1990"), record("1,200"), record("1990", context="1990"), record()]
    examples = encoded(tokenizer, *records)
    rows = rows_of(examples, length=length, tokenizer=tokenizer, overlap=overlap)
    batch = rows.read(range(rows.num_rows))
    covered = [np.zeros(len(one["tokens"]), int) for one in examples]
    has_answer = [0] * len(examples)
    before = None
    for row in range(rows.num_rows):
        number, window = rows.example_of(row), rows.window(row)
        size = window.stop - window.first
        covered[number][window.first : window.stop] += 1
        np.testing.assert_array_equal(
            batch["tokens"][row, window.place : window.place + size],
            examples[number]["tokens"][window.first : window.stop],
        )
        assert batch["segment_ids"][row].sum() == rows.sizes[row] <= length
        if before is not None and before[0] == number:
            shared = before[1].stop - window.first
            assert shared == min(overlap, (before[1].stop - before[1].first) // 2)
        before = (number, window)
        first, last = batch["label"][row]
        if (first, last) != (0, 0):
            has_answer[number] += 1
            expected = examples[number]["label"] - window.first + window.place
            np.testing.assert_array_equal([first, last], expected)
    assert all((counts > 0).all() for counts in covered)
    assert has_answer[2] == 1
    assert has_answer[3] == 0
    assert has_answer[0] >= 1
    if overlap:
        assert has_answer[1] >= 1  # short enough to be whole in one of two windows


def test_the_fields_of_a_row_are_those_of_the_tokenizer():
    tokenizer = tokenizer_of("bert_uncased")
    context = "a law of peace"
    rows = rows_of(
        encoded(tokenizer, record("law", context=context, question="War, peace?")),
        length=24,
        tokenizer=tokenizer,
    )
    batch = rows.read([0])
    expected = tokenizer.encode_with_specials("War, peace?", context)
    size = len(expected.ids)
    np.testing.assert_array_equal(batch["tokens"][0, :size], expected.ids)
    np.testing.assert_array_equal(batch["token_types"][0, :size], expected.type_ids)
    np.testing.assert_array_equal(batch["segment_ids"][0], np.arange(24) < size)
    shapes = dataset().shapes(1, 24)
    assert shapes.keys() - {"example_index"} == batch.keys()
    for name, field in batch.items():
        assert (field.shape, field.dtype) == (shapes[name].shape, shapes[name].dtype), name


def test_a_question_leaves_half_of_a_row_to_its_context_and_is_counted():
    tokenizer = ByteTokenizer()
    (example,) = encoded(tokenizer, record("1990", question="q" * 30))
    rows = rows_of([example], length=22, tokenizer=tokenizer)
    assert rows.truncated == (1, 20)
    assert (rows.sizes[:-1] == 22).all()
    with pytest.raises(ValueError, match=r"data\.sequence_length=3 leaves no place"):
        rows_of([example], length=3, tokenizer=tokenizer)


def test_what_is_asked_has_no_label():
    tokenizer = ByteTokenizer()
    (one,) = dataset().encode(
        ExampleRecord({"question": "q?", "context": CONTEXT}, "a:1"), tokenizer, is_labelled=False
    )
    rows = rows_of([one], length=100, tokenizer=tokenizer)
    assert "label" not in rows.read([0])
    assert rows.text(0)[0] == CONTEXT


def test_answers_may_stand_in_lists():
    """As TensorFlow Datasets and Hugging Face have SQuAD; any of them is right."""
    tokenizer = ByteTokenizer()
    start = CONTEXT.index("1,200")
    lists = {"text": ["1,200", "1990"], "answer_start": [start, CONTEXT.index("1990")]}
    listed, plain = encoded(tokenizer, record(answers=lists), record("1,200"))
    np.testing.assert_array_equal(listed["label"], plain["label"])
    assert rows_of([listed], length=99, tokenizer=tokenizer).answers(0) == ["1,200", "1990"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": " "}, r"a\.jsonl:7: 'context' is empty"),
        ({"question": 3}, r"a\.jsonl:7: 'question' is a int, not text"),
        ({"answers": []}, r"a\.jsonl:7: 'answers': there is none; .*`has_unanswerable`"),
        ({"answers": None}, r"a\.jsonl:7: 'answers' is null, not a list"),
        ({"answers": [{"text": "1990"}]}, "'1990' is not at answer_start=None"),
        (
            {"answers": [{"text": "1990", "answer_start": 4}]},
            r"'1990' is not at answer_start=4 but ' 199' is; it begins at 5",
        ),
        ({"answers": [{"text": "1990", "answer_start": -1}]}, "not at answer_start=-1"),
        (
            {"context": "1990 and 1991", "answers": [{"text": "1990", "answer_start": -1}]},
            "not at answer_start=-1 but '' is; it begins at 0",
        ),
        (
            {"context": "1990 and 1991", "answers": [{"text": "1991", "answer_start": -4}]},
            "not at answer_start=-4 but '' is; it begins at 9",
        ),
        ({"answers": [{"text": "no", "answer_start": 0}]}, "it begins at"),
        ({"answers": [{"text": "Nobody", "answer_start": 0}]}, "it is nowhere in 'context'"),
        ({"answers": [{"text": " ", "answer_start": 0}]}, "' ' is no text"),
        ({"answers": {"text": ["1990"], "answer_start": []}}, "1 texts, but 0 answer_start"),
    ],
)
def test_records_that_are_no_questions_are_named(fields, message):
    given = {"question": "q?", "context": CONTEXT, "answers": [], **fields}
    with pytest.raises(DatasetError, match=message):
        dataset().encode(ExampleRecord(given, "a.jsonl:7"), ByteTokenizer())


def test_the_nested_format_of_squad(tmp_path):
    path = tmp_path / "a.json"
    answer = {"text": "1990", "answer_start": 5}
    questions = [
        {"id": "1", "question": "When?", "answers": [answer], "is_impossible": False},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    article = {"title": "T", "paragraphs": [{"context": CONTEXT, "qas": questions}]}
    path.write_text(json.dumps({"version": "v2.0", "data": [article]}))
    records = list(source_of(path).records())
    assert [one.fields["answers"] for one in records] == [[answer], []]
    assert [one.fields["id"] for one in records] == ["1", "2"]
    assert records[1].where == f"{path}:data[0]:paragraphs[0]:qas[1]"
    assert all(one.fields["title"] == "T" for one in records)
    assert len(encoded(ByteTokenizer(), *records)) == 2


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("{", r"a\.json: not a file of JSON"),
        ("[]", r"a\.json: there is no list 'data'"),
        ('{"data": [{}]}', r"a\.json:data\[0\]: there is no list 'paragraphs'"),
        ('{"data": [{"paragraphs": [3]}]}', r"data\[0\]:paragraphs\[0\] is a int, not an object"),
    ],
)
def test_files_in_another_format_are_named(tmp_path, raw, message):
    path = tmp_path / "a.json"
    path.write_text(raw)
    source = TypeAdapter(ExampleSourceConfig).validate_python(
        {"type": "squad", "paths": [str(path)]}
    )
    with pytest.raises(DatasetError, match=message):
        list(source.records())


def test_a_window_has_an_answer_where_it_has_the_whole_of_it():
    """Of every two characters next to each other, without the ones beside them."""
    tokenizer = ByteTokenizer()
    context = "one, two, three and four hundred"
    pairs = [n for n in range(len(context) - 1) if " " not in context[n : n + 2]]
    told = [[{"text": context[n : n + 2], "answer_start": n}] for n in pairs]
    examples = encoded(tokenizer, *(record(context=context, answers=one) for one in told))
    rows = rows_of(examples, length=21, tokenizer=tokenizer, overlap=3)
    labels = rows.read(range(rows.num_rows))["label"]
    for row in range(rows.num_rows):
        window, start = rows.window(row), pairs[rows.example_of(row)]
        is_whole = window.first <= start and start + 2 <= window.stop
        place = window.place + start - window.first
        np.testing.assert_array_equal(labels[row], (place, place + 1) if is_whole else (0, 0))
