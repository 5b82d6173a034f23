"""What a person sees of rows of examples: every text, and the label by its name."""

import json
from pathlib import Path

import pytest

from jaxllm.data import DataConfig
from jaxllm.data.shown_rows import shown_label, shown_texts

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"
BERT = {"type": "hf", "path": str(GOLDEN / "bert_uncased")}
BYTES = {"type": "byte"}


def shown(root, record, *, tokenizer, **options):
    """The label of the one row, and its texts by heading."""
    (root / "a.jsonl").write_text(json.dumps(record))
    source = {"type": "jsonl", "paths": [str(root / "a.jsonl")]}
    given = {"source": source, "validation_every": 0, **options}
    data = DataConfig.model_validate(
        {
            "sequence_length": 40,
            "global_batch_size": 1,
            "datasets": {"it": given},
            "tokenizer": tokenizer,
            "root": str(root),
        }
    ).build()
    batch = data.train_loader(seed=0).batch(0)
    dataset = data.config.datasets["it"]
    texts = shown_texts(batch, 0, tokenizer=data.tokenizer, dataset=dataset)
    label = shown_label(batch, 0, tokenizer=data.tokenizer, dataset=dataset)
    return label, [(title.strip(), text) for title, text in texts]


def test_of_a_translation_both_texts(tmp_path):
    record = {"source": "A house.", "target": "Una casa."}
    label, texts = shown(tmp_path, record, type="translations", tokenizer=BYTES, prefix="es: ")
    assert not label
    assert texts == [
        ("source: 13 tokens", "es: A house."),
        ("target: 10 tokens, all of them in the loss", "Una casa."),
    ]


def test_of_a_pair_both_texts(tmp_path):
    record = {"text": "war", "text_pair": "peace", "label": "b"}
    _, texts = shown(tmp_path, record, type="text_pairs", tokenizer=BYTES)
    assert [text for _, text in texts] == ["war", "peace"]
    options = {"type": "labelled_texts", "text_pair": "text_pair", "labels": ["a", "b"]}
    label, texts = shown(tmp_path, record, tokenizer=BERT, **options)
    assert label == "b"
    parts = [text.replace(" ", "") for _, text in texts]
    assert parts == ["war[SEP]", "peace[SEP]"], "the delimiter is no text"
    assert not any("in the loss" in title for title, _ in texts), "it is scored as a whole"


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        ("b", {"labels": ["a", "b"]}, "b"),
        (7, {"label_edges": [2, 5]}, "5 and above"),
        (2.5, {"label_kind": "number"}, "2.5"),
        (["c", "a"], {"label_kind": "classes", "labels": ["a", "b", "c"]}, "a, c"),
        ([], {"label_kind": "classes", "labels": ["a", "b", "c"]}, "none of the classes"),
    ],
)
def test_of_a_labelled_text_its_label(tmp_path, value, options, expected):
    record = {"text": "war", "label": value}
    label, texts = shown(tmp_path, record, type="labelled_texts", tokenizer=BYTES, **options)
    assert label == expected
    assert [text for _, text in texts] == ["war"]


@pytest.mark.parametrize(("kind", "tokenizer"), [("byte", BYTES), ("bert", BERT)])
def test_of_tagged_words_the_tags(tmp_path, kind, tokenizer):
    words, tags = ["amelie", "went", "to", "rome"], ["B-PER", "O", "O", "B-LOC"]
    options = {"type": "tagged_texts", "tags": ["O", "B-PER", "B-LOC"]}
    label, texts = shown(tmp_path, {"words": words, "tags": tags}, tokenizer=tokenizer, **options)
    title, told = texts[-1]
    expected = " ".join(f"{word} ({tag})" for word, tag in zip(words, tags, strict=True))
    # BERT's words of several pieces are put together again by their marks.
    assert (label, title, told.replace(" ##", "")) == ("", "tags", expected), kind


@pytest.mark.parametrize("answer", ["rome", None])
def test_of_a_question_its_answer(tmp_path, answer):
    context = "she went to rome"
    answers = [{"text": answer, "answer_start": context.index(answer)}] if answer else []
    record = {"question": "where?", "context": context, "answers": answers}
    options = {"type": "questions", "has_unanswerable": True}
    label, texts = shown(tmp_path, record, tokenizer=BYTES, **options)
    assert label == ("answer 'rome'" if answer else "no answer in this row")
    assert [text for _, text in texts] == ["where?", context]
