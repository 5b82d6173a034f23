"""Whole tasks of the lm-evaluation-harness, on local files."""

import importlib.util
import math
import random
import socket

import local_tasks
import numpy as np
import pytest

from jaxllm.data.tokenizer import ByteTokenizerConfig
from jaxllm.evaluation import TaskFigure, Tasks, TextModel, find_tasks, task_figures
from jaxllm.evaluation.scoring import Likelihood
from jaxllm.parallel.mesh import ParallelConfig

local_tasks.require_harness()


class ByLength(TextModel):
    """Every byte costs one nat, but a `c` nothing; every text goes on with `law`."""

    def score(self, params, pairs, *, on_done):
        return [Likelihood(-float(sum(id_ != ord("c") for id_ in ids)), False) for _, ids in pairs]

    def continue_texts(self, params, requests, *, on_done):
        self.contexts = [context for context, _ in requests]
        return ["law"] * len(requests)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("local tasks need no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return local_tasks.write(tmp_path)


@pytest.fixture
def model():
    layout = ParallelConfig(layout="fsdp").build()
    tokenizer = ByteTokenizerConfig().build()
    return ByLength(None, tokenizer, max_length=64, layout=layout, rows=8)


def figures(results):
    return {(one.task, one.metric): one for one in task_figures(results)}


def test_tasks_of_every_kind_give_what_their_formulas_say(folder, model):
    tasks = Tasks(model, ["words_choice", "words_continue", "words_rolling"], folder=folder)
    found = figures(tasks.run(None))
    # The shortest choice wins, without its c's: the third, first, third, second, first.
    stderr = pytest.approx(math.sqrt(2 / 5 * 3 / 5 / (5 - 1)))
    acc = TaskFigure("words_choice", "acc", "none", 0, 2 / 5, stderr)
    assert found["words_choice", "acc"] == acc
    # By its length, without the space before: the first, first, third, first, first.
    assert found["words_choice", "acc_norm"].value == 2 / 5
    texts = [one["text"] + one["choices"][one["answer"]] for one in local_tasks.DOCUMENTS]
    nll = sum(len(text) - text.count("c") for text in texts)
    size = sum(map(len, texts))
    assert found["words_rolling", "bits_per_byte"].value == pytest.approx(nll / size / math.log(2))
    assert found["words_rolling", "bits_per_byte"].stderr is None
    # "law" is never a whole answer.
    assert found["words_continue", "exact_match"].value == 0
    assert model.contexts == [one["text"] for one in local_tasks.DOCUMENTS]


def test_they_run_again_on_fewer_examples_and_without_errors(folder, model):
    tasks = Tasks(model, ["words_continue"], folder=folder)
    first = tasks.run(None, has_errors=False)
    assert figures(first)["words_continue", "exact_match"].stderr is None
    tasks.run(None, limit=2)
    assert model.contexts == [one["text"] for one in local_tasks.DOCUMENTS[:2]]
    again = tasks.run(None, has_errors=False)
    assert again["results"] == first["results"]


def test_solved_examples_are_put_before_each(folder, model):
    file = folder / "continue.yaml"
    file.write_text(file.read_text() + "fewshot_split: train\n")
    tasks = Tasks(model, ["words_continue"], folder=folder)
    results = tasks.run(None, num_fewshot=2)
    assert figures(results)["words_continue", "exact_match"].num_fewshot == 2
    assert all(context.count("\n\n") == 2 for context in model.contexts)
    before = model.contexts
    tasks.run(None, num_fewshot=2)
    assert model.contexts == before  # the same examples each time


def test_nobody_else_meets_the_seeds_of_the_harness(folder, model):
    tasks = Tasks(model, ["words_choice"], folder=folder)
    random.seed(7)
    np.random.seed(7)
    states = random.getstate(), np.random.get_state()[1].tolist()
    tasks.run(None)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states


def test_names_are_found_by_pattern_and_a_wrong_one_is_told(folder, tmp_path, monkeypatch):
    # Those that come with the harness are too many to be read here.
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "shipped.yaml").write_text("task: shipped\n")
    monkeypatch.setattr("lm_eval.tasks.manager.__file__", str(tmp_path / "package" / "manager.py"))
    _, names = find_tasks(["words_*", "words_choice", "shipped"], folder=folder)
    assert names == ["words_choice", "words_continue", "words_rolling", "shipped"]
    with pytest.raises(ValueError, match=r"no task 'words_choise' .*; did you mean 'words_choice'"):
        find_tasks(["words_choise"], folder=folder)
    with pytest.raises(ValueError, match=r"nowhere is not a folder; --include-path \(evaluation\."):
        find_tasks(["words_choice"], folder=folder / "nowhere")


def test_data_and_settings_that_do_not_fit_are_told_before_it_runs(folder, model):
    choice, further = folder / "choice.yaml", folder / "continue.yaml"
    choice.write_text(choice.read_text().replace("train.jsonl", "nowhere.jsonl"))
    with pytest.raises(ValueError, match=r"(?s)tasks words_choice: .* loaded: .*nowhere\.jsonl"):
        Tasks(model, ["words_choice"], folder=folder)
    further.write_text(further.read_text().replace("max_gen_toks: 4", "max_gen_toks: 64"))
    with pytest.raises(ValueError, match=r"task words_continue: .*max_gen_toks is 64, which leav"):
        Tasks(model, ["words_continue"], folder=folder)


def test_without_the_harness_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"arc_easy: .* pip install 'jaxllm\[lm-eval\]'"):
        find_tasks(["arc_easy"])
