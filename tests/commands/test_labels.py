"""Runs on texts with any number of classes, with numbers, and on TFDS datasets by their names."""

import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxllm.commands.batches import task
from jaxllm.commands.inspect import inspect
from jaxllm.commands.run_folder import open_model, read_config
from jaxllm.config import load_config
from jaxllm.data.example_table import table_of

from . import runs

CONFIG = """
run_dir: {folder}/run
model: {{type: encoder, num_layers: 1, embed_dim: 16, num_heads: 2, mlp_dim: 16, max_length: 16,
         head: sequence, num_labels: 2}}
objective: {{type: sequence_classification}}
data:
  sequence_length: 16
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets: {{texts: {dataset}}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant}}}}
training: {{steps: 1}}
evaluation: {{baseline: tfidf}}
compilation_cache: {folder}/compiled
"""
WORDS = ("war", "law", "war law", "peace")


class WordsOfWar(tfds.core.GeneratorBasedBuilder):
    """Words, of which some are of war."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["other", "war"])
        features = tfds.features.FeaturesDict({"words": tfds.features.Text(), "kind": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for number in range(8):
            word = WORDS[number % 4]
            yield number, {"words": word, "kind": "war" if "war" in word else "other"}


def write(folder, dataset):
    path = folder / "labels.yaml"
    path.write_text(CONFIG.format(folder=folder, dataset=dataset))
    return path


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A config on a TFDS dataset, whose classes only that names."""
    folder = tmp_path_factory.mktemp("named")
    builder = WordsOfWar(data_dir=str(folder))
    builder.download_and_prepare(file_format="array_record")
    short = "text: words, label: kind, validation_split: test"
    return write(folder, f"{{type: tfds, name: {builder.data_dir}, {short}}}")


@pytest.mark.slow
def test_a_run_keeps_the_classes_that_its_data_names(named, capsys):
    run_dir = named.parent / "run"
    assert load_config(named).data.datasets["texts"].class_names is None
    with pytest.raises(ValueError, match=r"num_labels=3, but data\.datasets\.texts has 2 classes"):
        runs.start(named, run_dir, "model.num_labels=3")
    assert runs.start(named, run_dir) == 0
    assert read_config(run_dir).data.datasets["texts"].labels == ("other", "war")
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["class_names"] == ["other", "war"]
    assert summary["baseline_accuracy"] == 1
    capsys.readouterr()
    assert runs.start(named, run_dir) == 0, "the same config goes on with it"
    assert "training from scratch" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"datasets\.texts\.labels: \['other', 'war'\] in the run"):
        runs.start(named, run_dir, "data.datasets.texts.labels=[war, other]")
    inspect(str(named), rows=1)
    shown = capsys.readouterr().out
    assert re.search(r"row 0 of batch 0: (war|other)\n", shown)
    assert "train label war" in shown


def jsonl(folder, labels, options):
    records = [{"text": WORDS[n % 4], "label": labels[n % 4]} for n in range(16)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, records)))
    source = f"{{type: jsonl, paths: ['{folder}/texts.jsonl']}}"
    return f"{{type: labelled_texts, source: {source}, validation_every: 2, {options}}}"


CASES = {
    "classes": (
        (["war"], ["law"], "law,war", []),
        "label_kind: classes, labels: [war, law]",
        ("objective.is_multi_label=true",),
        {"subset_accuracy", "micro_f1", "macro_f1"},
    ),
    "number": (
        (1.0, -1.0, 0.0, 2.0),
        "label_kind: number",
        ("objective={type: sequence_regression}", "model.num_labels=1"),
        {"mean_squared_error", "pearson", "spearman"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_its_figures_are_beside_those_of_the_baseline(kind, tmp_path, capsys):
    labels, options, overrides, names = CASES[kind]
    path = write(tmp_path, jsonl(tmp_path, labels, options))
    assert runs.start(path, tmp_path / "run", *overrides) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (scored,) = [one for one in runs.records(tmp_path / "run") if "validation_loss" in one]
    for name in names:
        assert summary[name] == scored[f"validation_{name}"]
        assert np.isfinite(summary[f"baseline_{name}"])
    assert "by TF-IDF and" in (told := capsys.readouterr().out)
    assert "the model is better" in told or "the baseline is better" in told
    # What it answers is what its figures are of.
    trained = open_model(tmp_path / "run")
    dataset = trained.config.data.datasets["texts"]
    doing = task(trained.config, trained.parts, trained.tokenizer, rows=8)
    records = list(dataset.source.records())[:8]
    table = table_of(
        dataset.encode(one, trained.tokenizer, is_labelled=False)[0] for one in records
    )
    rows = dataset.rows(table, 16, tokenizer=trained.tokenizer)
    batch = rows.read(range(8)) | {"example_index": np.arange(8, dtype=np.uint32)}
    outputs = doing.outputs(doing.begin(trained.params, batch))
    part = {name: field[0] for name, field in outputs.items()}
    answer = doing.answer([part], rows, [0])
    json.dumps(answer)
    if kind == "number":
        assert answer == {"value": float(part["value"])}
    else:
        likely = 1 / (1 + np.exp(-part["logits"].astype(np.float64)))
        # Another formula for the same number, in float64.
        np.testing.assert_allclose([*answer["probabilities"].values()], likely, rtol=1e-12)
        told = [name for name, p in zip(("war", "law"), likely, strict=True) if p >= 0.5]
        assert answer["labels"] == told


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        (
            "label_kind: classes, labels: [war, law]",
            (),
            r"label_kind=classes, but objective\.is_multi_label=false learns label_kind=class",
        ),
        (
            "labels: [war, law]",
            ("objective.is_multi_label=true",),
            r"label_kind=class, but objective\.is_multi_label=true learns label_kind=classes",
        ),
        (
            "label_kind: number",
            ("objective.type=sequence_regression",),
            r"tells one number of a text, but model\.num_labels=2; set it to 1",
        ),
        (
            "label_kind: number",
            ("objective={type: masked_lm}", "model.head=masked_lm", "model.num_labels=null"),
            r"evaluation\.baseline=tfidf tells what whole texts are labelled with",
        ),
    ],
)
def test_labels_that_are_not_learned_are_refused(tmp_path, options, overrides, message):
    path = write(tmp_path, jsonl(tmp_path, WORDS, options))
    with pytest.raises(ValueError, match=message):
        load_config(path, overrides)
