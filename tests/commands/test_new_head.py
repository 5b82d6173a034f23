"""Pretraining, then a task: a run whose head is another than that of the run it starts from."""

import json

import jax
import numpy as np
import pytest
import yaml

from jaxllm.commands.run_folder import open_model, read_config
from jaxllm.config import load_config
from jaxllm.data.tokenizer import load_tokenizer

from . import runs

pytestmark = pytest.mark.slow

PRETRAINING = (
    "model={type: encoder, num_layers: 1, embed_dim: 16, num_heads: 2, mlp_dim: 16, "
    "max_length: 32}",
    "objective={type: masked_lm, rate: 0.3}",
    "samples.every=null",
    "training={steps: 1}",
    "profile.start=null",
    "optim.schedule={type: constant}",
    "evaluation.every=null",
)
CONFIG = """
run_dir: {folder}/run
init_from: {{type: run, path: {start}}}
model: {{head: sequence, num_labels: 2}}
objective: {{type: sequence_classification}}
data:
  sequence_length: 32
  global_batch_size: 8
  root: {folder}/root
  datasets:
    texts:
      type: labelled_texts
      source: {{type: jsonl, paths: ["{folder}/texts.jsonl"]}}
      labels: [peace, war]
      validation_every: 3
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant}}}}
training: {{steps: 1, frozen: [embed, blocks]}}
evaluation: {{baseline: tfidf}}
compilation_cache: {folder}/compiled
"""
HEAD = {"label_head.kernel", "label_head.bias", "pooler.dense.kernel", "pooler.dense.bias"}


@pytest.fixture(scope="module")
def pretrained(text):
    run_dir = text.parent / "pretrained"
    assert runs.start(text, run_dir, *PRETRAINING) == 0
    return run_dir


@pytest.fixture(scope="module")
def config(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    lines = [
        {"text": f"{label} {number}", "label": label}
        for number in range(9)
        for label in ("peace", "war")
    ]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = folder / "head.yaml"
    path.write_text(CONFIG.format(folder=folder, start=pretrained))
    return path


def flat(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def test_the_network_is_the_runs_and_the_head_is_new(config, pretrained, capsys):
    run_dir = config.parent / "tuned"
    assert runs.start(config, run_dir) == 0
    told = " ".join(capsys.readouterr().out.split())
    before, after = (flat(open_model(path).params) for path in (pretrained, run_dir))
    assert before.keys() ^ after.keys() == HEAD | {
        name for name in before if name.startswith("vocabulary_head.")
    }
    for name in HEAD:
        assert name in told.split("new weights:")[1].split("starting from")[0]
    left = told.split(f"left out of {pretrained}:")[1].split("new weights")[0]
    assert {name.strip() for name in left.split(",")} == before.keys() - after.keys()
    # What is frozen is the run's by a bit; what is trained moved by one step at most.
    for name in before.keys() & after.keys():
        if name.startswith(("embed.", "blocks.")):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        else:
            # AdamW's first step: the rate, and what the weights decay by.
            np.testing.assert_allclose(after[name], before[name], atol=0.0102, err_msg=name)
    model = read_config(run_dir).model
    assert (model.head, model.num_labels) == ("sequence", 2)
    assert model.embed_dim == read_config(pretrained).model.embed_dim
    # The tokenizer too, as the config names none.
    tokenizers = [load_tokenizer(path / "tokenizer").fingerprint for path in (pretrained, run_dir)]
    assert tokenizers[0] == tokenizers[1]


def test_other_classes_of_as_many_are_another_head(config, tmp_path, capsys):
    """The texts' labels are of one set of classes, and those of the run before of another."""
    first, texts = tmp_path / "first", config.parent / "texts.jsonl"
    assert runs.start(config, first, "training.frozen=[]") == 0
    other = tmp_path / "other.jsonl"
    other.write_text(texts.read_text().replace('"war"', '"law"'))
    changes = (
        f"init_from.path={first}",
        f"data.datasets.texts.source.paths=['{other}']",
        "data.datasets.texts.labels=[peace, law]",
        "training.frozen=[embed, blocks]",
    )
    with pytest.raises(
        ValueError, match=r"tells \[peace, war\], .* have \[peace, law\]; set init_"
    ):
        runs.start(config, tmp_path / "refused", *changes)
    capsys.readouterr()
    assert runs.start(config, tmp_path / "new", *changes, "init_from.head=new", "seed=1") == 0
    assert "new weights: label_head.bias, label_head.kernel" in capsys.readouterr().out
    assert runs.start(config, tmp_path / "kept", *changes, "init_from.head=kept") == 0
    assert "new weights" not in capsys.readouterr().out
    heads = {
        name: flat(open_model(tmp_path / name).params)["label_head.kernel"]
        for name in ("first", "new", "kept")
    }
    # AdamW's first step: the rate, and what the weights decay by.
    np.testing.assert_allclose(heads["kept"], heads["first"], atol=0.0102)
    assert np.abs(heads["new"] - heads["first"]).max() > 0.03


def test_a_new_head_that_is_frozen_is_refused(config):
    with pytest.raises(ValueError, match=r"does not have label_head\.bias, .* training\.frozen"):
        runs.start(config, config.parent / "idle", "training.frozen=[embed, label_head]")


def test_another_network_is_refused(config):
    with pytest.raises(ValueError, match=r"is of another architecture:\n  .*mlp"):
        runs.start(config, config.parent / "wide", "model.mlp_dim=24")


def test_the_vocabulary_is_that_of_the_runs_weights(config, pretrained):
    """The objective of the pretraining may have added an id that no text has."""
    assert yaml.safe_load((pretrained / "config.yaml").read_text())["model"]["vocab_size"] is None
    rows, _ = open_model(pretrained).params["embed"]["table"].shape
    assert rows > load_tokenizer(pretrained / "tokenizer").vocab_size
    assert load_config(config).model.vocab_size == rows
