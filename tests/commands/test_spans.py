"""Runs that tell entities and answers: the same command, the same promises, and `predict`."""

import json

import pytest

from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.predict import predict
from jaxllm.config import load_config

from . import runs
from .interruptions import run_with_crash

COMMON = """
run_dir: {folder}/run
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: cosine, warmup_steps: 2}}}}
training: {{steps: 4}}
checkpoints: {{every: 2}}
evaluation: {{every: 2}}
compilation_cache: {folder}/compiled
"""
ENTITIES = """
model: {{type: encoder, num_layers: 1, embed_dim: 32, num_heads: 2, mlp_dim: 32, max_length: 32,
         dropout: 0.1, head: token, num_labels: 3}}
objective: {{type: token_classification}}
data:
  sequence_length: 32
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets:
    names:
      type: tagged_texts
      source: {{type: conll, paths: ["{folder}/names.conll"]}}
      tags: [O, B-NAME, I-NAME]
      validation_every: 4
"""
QUESTIONS = """
model: {{type: encoder, num_layers: 1, embed_dim: 32, num_heads: 2, mlp_dim: 32, max_length: 32,
         dropout: 0.1, head: span}}
objective: {{type: question_answering}}
data:
  sequence_length: 32
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets:
    questions:
      type: questions
      source: {{type: squad, paths: ["{folder}/questions.json"]}}
      has_unanswerable: true
      overlap: 8
      group: title
      validation_every: 4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Names of two words in sentences, and questions about numbers in longer ones."""
    folder = tmp_path_factory.mktemp("spans")
    words = [["we", "met", "Ann", f"Lee{n}", "there", *(["again"] * (n % 9))] for n in range(40)]
    tags = {2: "B-NAME", 3: "I-NAME"}
    texts = ["".join(f"{w} {tags.get(i, 'O')}\n" for i, w in enumerate(one)) for one in words]
    (folder / "names.conll").write_text("\n".join(texts))
    articles = []
    for n in range(24):
        context = f"{'so ' * n}had {n} ships and {n + 7} men"
        answers = [{"text": f"{n} ships", "answer_start": context.index(f"{n} ships")}]
        asked = [
            {"id": f"{n}", "question": "ships?", "answers": answers},
            {"id": f"{n}x", "question": "cows?", "answers": [], "is_impossible": True},
        ]
        articles.append({"title": f"{n}", "paragraphs": [{"context": context, "qas": asked}]})
    (folder / "questions.json").write_text(json.dumps({"data": articles}))
    for name, text in (("names", ENTITIES), ("questions", QUESTIONS)):
        (folder / f"{name}.yaml").write_text((COMMON + text).format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """The run of names that nothing stopped. Read it only."""
    assert runs.start(folder / "names.yaml", folder / "finished") == 0
    return folder / "finished"


def summary_of(run_dir):
    return json.loads((run_dir / "summary.json").read_text())


def predicted(run_dir, records, folder):
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    predict(run_dir, folder / "in.jsonl", folder / "out.jsonl")
    return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_entities_are_scored_and_predicted(finished, tmp_path):
    scored = [one for one in runs.records(finished) if "validation_loss" in one]
    summary = summary_of(finished)
    for name in ("precision", "recall", "f1"):
        assert summary[name] == scored[-1][f"validation_{name}"]
    assert summary["by_type"]["NAME"]["count"] == 10
    assert "NAME: F1" in summary["told"][1]
    texts = [{"text": "we met Ann Lee1 there"}, {"words": ["x"] * 50}, {"text": "so"}]
    answers = predicted(finished, texts, tmp_path)
    assert [list(answer) for answer in answers] == [["entities"]] * 3
    for record, answer in zip(texts, answers, strict=True):
        for one in answer["entities"]:
            assert one["label"] == "NAME"
            if "text" in record:
                assert record["text"][one["start"] : one["end"]] == one["text"]


def test_batches_have_the_shapes_that_configs_tell(folder):
    for name in ("names", "questions"):
        loaded = load_config(folder / f"{name}.yaml")
        batch = loaded.data.build().train_loader(seed=0).batch(0)
        assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
            name: (field.shape, field.dtype) for name, field in abstract_batch(loaded).items()
        }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_labels=4", r"model\.num_labels=4, but data\.datasets\.names has 3 classes"),
        ("model.head=sequence", r"needs model\.head=token, but it is sequence"),
        ("objective.type=question_answering", "type tagged_texts, which objective"),
        ("data.datasets.names.tags=[O,NAME]", "'NAME' is neither 'O' nor"),
    ],
)
def test_what_does_not_fit_is_refused(folder, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(folder / "names.yaml", [override])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["names", "questions"])
def test_resumed_it_is_the_uninterrupted_run(folder, name, tmp_path):
    config = folder / f"{name}.yaml"
    whole, run_dir = tmp_path / "whole", tmp_path / "run"
    assert runs.start(config, whole) == 0
    run_with_crash(3, config, run_dir)
    runs.assert_same_run(run_dir, whole, step=4)
    figures = ("precision", "recall", "f1") if name == "names" else ("exact_match", "f1")
    for figure in figures:
        assert summary_of(run_dir)[figure] == summary_of(whole)[figure]


@pytest.mark.slow
def test_answers_are_predicted(folder, tmp_path):
    run_dir = tmp_path / "run"
    assert runs.start(folder / "questions.yaml", run_dir) == 0
    contexts = ["so had 9 ships", "so " * 60 + "had 11 ships", "a"]
    records = [{"question": "ships?", "context": context} for context in contexts]
    for context, answer in zip(contexts, predicted(run_dir, records, tmp_path), strict=True):
        assert list(answer) == ["answer", "start", "end", "score"]
        assert 0 < answer["score"] <= 1
        if answer["start"] is None:
            assert answer["answer"] == ""
        else:
            assert context[answer["start"] : answer["end"]] == answer["answer"] != ""
