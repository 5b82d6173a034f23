"""Tasks of the lm-evaluation-harness, put to runs and while they train."""

import json

import jax
import local_tasks
import numpy as np
import pytest
from typer.testing import CliRunner

from jaxllm.cli import app
from jaxllm.commands import evaluate as module
from jaxllm.commands.evaluate import evaluate_tasks
from jaxllm.commands.run_folder import open_model
from jaxllm.nn.param import bind

from . import runs
from .test_two_processes import ended, pair  # noqa: F401

local_tasks.require_harness()
NAMES = ["words_choice", "words_continue", "words_rolling"]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # so that tables are not wrapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return local_tasks.write(tmp_path_factory.mktemp("tasks"))


def of_config(names, folder):
    """The overrides that score tasks of a folder while a run trains."""
    return [f"evaluation.tasks=[{', '.join(names)}]", f"evaluation.tasks_path={folder}"]


def nll_by_the_network(run_dir, texts):
    """-log p of texts of up to 32 bytes behind a delimiter, one after the other."""
    trained = open_model(run_dir)
    network = jax.jit(lambda params, ids: bind(trained.parts.model, params)(ids))
    total = 0.0
    for text in texts:
        ids = [256, *text.encode()]
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(ids) - 1] = ids[:-1]
        logits = np.asarray(network(trained.params, padded), np.float64)[0, : len(ids) - 1, :257]
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= log_probs[np.arange(len(ids) - 1), ids[1:]].sum()
    return total


def test_a_run_is_scored_and_a_table_and_a_file_tell(finished, folder, tmp_path, capsys):
    output = tmp_path / "new" / "results.json"
    results = evaluate_tasks(finished, NAMES, include_path=folder, limit=2, output=output)
    written = json.loads(output.read_text())
    assert written["results"] == results["results"]
    assert written["config"]["model_args"] == {"run": str(finished), "step": 6}
    assert written["n-samples"]["words_choice"] == {"original": 5, "effective": 2}
    acc = results["results"]["words_choice"]
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if "words_choice" in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    value, stderr = acc["acc,none"], acc["acc_stderr,none"]
    assert cells == ["words_choice", "none", "0", "acc", f"{value:.4f}", f"± {stderr:.4f}"]
    assert sum("bits_per_byte" in line for line in lines) == 1


def test_where_no_results_can_be_written_nothing_is_scored(finished, folder, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    given = {"include_path": folder, "output": tmp_path / "file" / "results.json"}
    monkeypatch.setattr(module, "Tasks", None)
    with pytest.raises(OSError, match=r"--tasks-output: .*/file cannot be written: "):
        evaluate_tasks(finished, NAMES, **given)


def test_the_score_of_a_text_is_that_of_the_network(finished, folder):
    texts = [one["text"] + one["choices"][one["answer"]] for one in local_tasks.DOCUMENTS[:1]]
    results = evaluate_tasks(finished, ["words_rolling"], include_path=folder, limit=1)
    found = results["results"]["words_rolling"]["bits_per_byte,none"]
    expected = nll_by_the_network(finished, texts) / np.log(2) / len(texts[0])
    assert found == pytest.approx(expected, rel=1e-5)  # a sum of 12 float32 terms


def test_the_command_takes_every_option(finished, folder, tmp_path):
    output = tmp_path / "results.json"
    options = f"--tasks words_choice,words_continue --include-path {folder} --limit 3"
    more = f"--num-fewshot 1 --add-bos-token --max-length 20 --tasks-output {output} --step 4"
    said = CliRunner().invoke(app, ["evaluate", str(finished), *options.split(), *more.split()])
    assert said.exit_code == 0, said.output
    written = json.loads(output.read_text())
    assert written["config"] == {
        "model": "jaxllm",
        "model_args": {"run": str(finished), "step": 4},
        "max_length": 20,
        "add_bos_token": True,
        "limit": 3,
    }
    assert written["n-shot"] == {"words_choice": 1, "words_continue": 1}
    assert list(written["results"]) == ["words_choice", "words_continue"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--limit", "2", "--num-fewshot", "0"], "--limit, --num-fewshot: only for tasks; give --"),
        (["--tasks", " , "], "--tasks ' , ' names none"),
        (["--tasks", "words_choice", "--include-path", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_options_are_told(finished, options, problem):
    said = CliRunner().invoke(app, ["evaluate", str(finished), *options])
    assert isinstance(said.exception, ValueError)
    assert problem in str(said.exception)


def test_a_run_of_ids_has_no_text_for_tasks(uninterrupted, folder):
    with pytest.raises(ValueError, match="without a tokenizer; tasks are of text"):
        evaluate_tasks(uninterrupted, ["words_choice"], include_path=folder)


def test_tasks_while_training_are_recorded_and_disturb_nothing(text, finished, folder, tmp_path):
    run_dir = tmp_path / "run"
    settings = [*of_config(NAMES, folder), "evaluation.tasks_limit=3"]
    assert runs.start(text, run_dir, *settings) == 0
    runs.assert_same_run(run_dir, finished, step=6)
    records = [record for record in runs.records(run_dir) if "validation_loss" in record]
    plain = [record for record in runs.records(finished) if "validation_loss" in record]
    keys = {
        "task_words_choice_acc",
        "task_words_choice_acc_norm",
        "task_words_continue_exact_match",
        "task_words_rolling_word_perplexity",
        "task_words_rolling_bits_per_byte",
    }
    for record, other in zip(records, plain, strict=True):
        assert record.keys() == other.keys() | keys
        assert {key: record[key] for key in other} == other
    scores = [record["task_words_rolling_bits_per_byte"] for record in records]
    assert scores[1] < scores[0]
    again = evaluate_tasks(run_dir, ["words_rolling"], include_path=folder, limit=3)
    assert again["results"]["words_rolling"]["bits_per_byte,none"] == pytest.approx(scores[1])


def test_tasks_alone_are_scored_at_their_steps(text, folder, tmp_path):
    run_dir = tmp_path / "run"
    corpus = f"{{type: text, paths: ['{text.parent}/a/*']}}"
    dataset = f"{{type: corpus, validation_every: 0, corpus: {corpus}}}"
    settings = [*of_config(["words_choice"], folder), f"data.datasets={{plain: {dataset}}}"]
    assert runs.start(text, run_dir, *settings, f"data.root={tmp_path}/root") == 0
    scored = [record for record in runs.records(run_dir) if "task_words_choice_acc" in record]
    assert [record["step"] for record in scored] == [3, 6]
    assert "validation_loss" not in scored[0]


def test_impossible_tasks_are_refused_before_there_is_a_run(text, ids, folder, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.tasks is words_choice, .* set data\.token"):
        runs.start(ids, tmp_path / "ids", *of_config(["words_choice"], folder))
    with pytest.raises(ValueError, match=r"nowhere is not a folder; .* \(evaluation\.tasks_path\)"):
        runs.start(text, tmp_path / "text", *of_config(["words_choice"], "nowhere"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_two_processes_score_as_one_does(text, folder, tmp_path, pair):  # noqa: F811
    """Only the order of sums differs, which the steps of training enlarge."""
    settings = of_config(NAMES, folder)
    assert runs.start(text, tmp_path / "one", *settings) == 0
    for process in ended(pair("train", text, f"run_dir={tmp_path}/two", *settings)):
        assert process[0] == 0, process
    one, two = (
        [record for record in runs.records(tmp_path / name) if "validation_loss" in record]
        for name in ("one", "two")
    )
    for record, other in zip(two, one, strict=True):
        assert record == pytest.approx(other, rel=1e-4)
