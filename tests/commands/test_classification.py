"""A run that tells classes of texts apart: the same command, the same promises, and its figures."""

import json
import re

import numpy as np
import pytest

from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.export import export_model
from jaxllm.commands.inspect import inspect
from jaxllm.commands.prepare import prepare
from jaxllm.commands.report import report
from jaxllm.commands.run_folder import open_model
from jaxllm.config import load_config
from jaxllm.hf.model import load_model, save_model
from jaxllm.nn.param import bind

from . import runs
from .interruptions import run_with_crash

CONFIG = """
run_dir: {folder}/run
model: {{type: encoder, num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32, max_length: 32,
         dropout: 0.1, head: sequence, num_labels: 2}}
objective: {{type: sequence_classification}}
data:
  sequence_length: 32
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets:
    texts:
      type: labelled_texts
      source: {{type: jsonl, paths: ["{folder}/texts.jsonl"]}}
      labels: [peace, war]
      group: speech
      validation_every: 3
      is_cut: true
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: cosine, warmup_steps: 2}}}}
training: {{steps: 6}}
checkpoints: {{every: 2, keep_latest: 2}}
evaluation: {{every: 3, baseline: tfidf}}
compilation_cache: {folder}/compiled
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Texts whose class is one of their words."""
    folder = tmp_path_factory.mktemp("classes")
    lines = [
        {
            "text": f"{label} " + f"{number} words " * (number % 7),
            "label": label,
            "speech": number // 3,
        }
        for number in range(60)
        for label in ("peace", "war")
    ]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = folder / "classes.yaml"
    path.write_text(CONFIG.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def finished(config):
    """The run that nothing stopped. Read it only."""
    run_dir = config.parent / "finished"
    assert runs.start(config, run_dir) == 0
    return run_dir


def test_resumed_it_is_the_uninterrupted_run(config, finished, tmp_path):
    run_dir = run_with_crash(5, config, tmp_path / "run")
    runs.assert_same_run(run_dir, finished, step=6)
    # The scores too, and the baseline.
    clocks = ("tokens_per_second", "wall_seconds", "goodput")
    one, other = (json.loads((path / "summary.json").read_text()) for path in (run_dir, finished))
    assert {k: v for k, v in one.items() if k not in clocks} == {
        k: v for k, v in other.items() if k not in clocks
    }


def test_its_figures_are_in_metrics_summary_and_page(finished):
    scored = [one for one in runs.records(finished) if "validation_loss" in one]
    assert [one["step"] for one in scored] == [3, 6]
    assert not any("perplexity" in key for one in scored for key in one)
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("accuracy", "macro_f1", "micro_f1", "matthews"):
        assert summary[name] == scored[-1][f"validation_{name}"]
    counts = summary["confusion"]
    assert summary["accuracy"] == (counts[0][0] + counts[1][1]) / sum(map(sum, counts))
    assert summary["class_names"] == ["peace", "war"]
    assert summary["validation_perplexity"] is None
    # The words decide, where a row has them: parts of a text that come later do not.
    assert 0.5 < summary["baseline_accuracy"] < 1
    assert 0.5 < summary["baseline_macro_f1"] < 1
    report([finished], out=finished.parent / "page.html")
    page = (finished.parent / "page.html").read_text()
    for said in ("<h2>Confusion</h2>", "war told as peace: ", "<h2>Task</h2>", "Macro-F1"):
        assert said in page


def test_the_end_says_which_is_better(config, finished, capsys):
    assert runs.start(config, finished) == 0  # complete: it tells its ending again
    told = " ".join(capsys.readouterr().out.split())
    summary = json.loads((finished / "summary.json").read_text())
    gap = summary["macro_f1"] - summary["baseline_macro_f1"]
    assert gap != 0
    assert f"accuracy {summary['accuracy']:.4f}" in told
    assert f"accuracy {summary['baseline_accuracy']:.4f}" in told
    better = "model" if gap > 0 else "baseline"
    assert f"the {better} is better by {abs(gap):.4f} of macro-F1" in told


def test_its_score_is_the_same_again(finished):
    summary = json.loads((finished / "summary.json").read_text())
    (score,) = evaluate(finished).values()
    # The same sums over the same devices: float32 rounding of other batch sizes.
    assert score.loss == pytest.approx(summary["validation_loss"], rel=1e-6)
    assert score.num_tokens == sum(map(sum, summary["confusion"]))
    with pytest.raises(ValueError, match=r"--data: .* was trained on examples"):
        evaluate(finished, data=["a.txt"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_labels=3", r"model\.num_labels=3, but data\.datasets\.texts has 2 classes"),
        ("model.head=token", r"needs model\.head=sequence, but it is token"),
        (
            "objective.type=masked_lm",
            r"data\.datasets\.texts is of type labelled_texts, which objective",
        ),
        (
            "data.datasets.more={type: synthetic}",
            r"data\.datasets\.more is of type synthetic, .* give one of type labelled_texts",
        ),
        ("samples.every=3", r"a model of type encoder continues no text"),
    ],
)
def test_what_does_not_fit_is_refused(config, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(config, [override])


def test_a_baseline_needs_classes_and_rows_to_compare_on(config, text, tmp_path):
    with pytest.raises(ValueError, match=r"evaluation\.baseline=tfidf tells what whole texts are"):
        load_config(text, ["evaluation.baseline=tfidf"])
    with pytest.raises(ValueError, match=r"evaluation\.baseline is tfidf, but no dataset has a"):
        runs.start(
            config,
            tmp_path / "run",
            "evaluation.every=null",
            "data.datasets.texts.validation_every=0",
        )


def test_what_it_reads_is_shown(config, finished, capsys):
    prepare(load_config(config))
    told = " ".join(capsys.readouterr().out.split())
    assert "train 84 examples" in told
    assert "validation 36 examples" in told
    inspect(str(config), rows=2)
    told = capsys.readouterr().out
    assert re.search(r"row 0 of batch 0: (peace|war)\n.*\n +(peace|war|\d+ words|words|rds) ", told)


def test_exported_it_keeps_its_classes_and_its_logits(finished, tmp_path):
    out, again = tmp_path / "out", tmp_path / "again"
    export_model(finished, out, step=None, dtype="float32")
    trained, model = open_model(finished), load_model(out)
    save_model(model, again)
    for folder in (out, again):
        told = json.loads((folder / "config.json").read_text())
        assert told["id2label"] == {"0": "peace", "1": "war"}
        assert told["label2id"] == {"peace": 0, "war": 1}
        assert told["problem_type"] == "single_label_classification"
    tokens = np.frombuffer(b"war and peace", np.uint8).astype(np.int32)[None]
    segments = np.ones_like(tokens)
    module = bind(trained.parts.model, trained.params)
    # The same program, but for how its weights are laid out.
    np.testing.assert_allclose(
        model(tokens).logits, module(tokens, segment_ids_BT=segments).logits, rtol=1e-5, atol=1e-6
    )


def test_a_batch_has_the_shapes_that_the_config_tells(config):
    loaded = load_config(config)
    batch = loaded.data.build().train_loader(seed=0).batch(0)
    shapes = {name: (field.shape, field.dtype) for name, field in batch.items()}
    assert shapes == {
        name: (field.shape, field.dtype) for name, field in abstract_batch(loaded).items()
    }
