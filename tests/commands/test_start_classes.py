"""A head whose classes are called otherwise than the run's is neither taken nor left unasked."""

import json

import jax
import pytest
import yaml
from flax.traverse_util import flatten_dict
from hf.published import published

from jaxllm.checkpoints.start import RunStart
from jaxllm.commands.assembly import assemble
from jaxllm.commands.run_start import new_of, saved_shapes
from jaxllm.commands.start_classes import check_classes
from jaxllm.config import dump_yaml, parse_config
from jaxllm.hf.start import HfStart
from jaxllm.parallel.mesh import ParallelConfig

RAW = published("bert_sequence").raw
NAMES = ["peace", "war", "law", "money"]
HEAD = {"label_head.kernel", "label_head.bias"}


def folder_of(tmp_path, names):
    """A folder as far as its config tells, with these classes."""
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    named = {"id2label": {str(number): name for number, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(RAW | named))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return HfStart(path=str(folder))


def config_of(start, labels=NAMES, **model):
    """A run on texts with these labels that begins so."""
    source = {"type": "jsonl", "paths": ["texts.jsonl"]}
    texts = {"type": "labelled_texts", "source": source, "labels": labels}
    raw = {
        "run_dir": "runs/x",
        "init_from": start.model_dump(),
        "model": {**start.model(), **model},
        "objective": {"type": "sequence_classification"},
        "data": {
            "sequence_length": 16,
            "global_batch_size": 8,
            "tokenizer": {"type": "byte"},
            "datasets": {"texts": texts},
        },
        "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "constant"}},
        "training": {"steps": 1},
    }
    return parse_config(raw, origin="test")


def run_of(tmp_path, labels):
    """A run folder, as far as its config tells."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = config_of(folder_of(tmp_path, labels), labels)
    (folder / "config.yaml").write_text(dump_yaml(config.model_copy(update={"init_from": None})))
    return RunStart(path=str(folder))


STARTS = pytest.mark.parametrize("start_of", [folder_of, run_of])


@STARTS
@pytest.mark.parametrize("names", [["a", "b", "c", "d"], NAMES[::-1]])
def test_other_names_or_another_order_are_refused(start_of, names, tmp_path):
    start = start_of(tmp_path, names)
    shown = rf"tells \[{', '.join(names)}\], but data\.datasets have \[peace, war, law, money\]"
    with pytest.raises(ValueError, match=rf"{shown}; set init_from\.head=new"):
        check_classes(start, config_of(start))


@STARTS
def test_unless_the_config_says_what_they_are(start_of, tmp_path):
    start = start_of(tmp_path, ["a", "b", "c", "d"])
    for head in ("kept", "new"):
        said = start.model_copy(update={"head": head})
        check_classes(said, config_of(said))


@STARTS
def test_the_same_names_are_taken(start_of, tmp_path):
    start = start_of(tmp_path, NAMES)
    check_classes(start, config_of(start))


def test_classes_that_nobody_named_are_any(tmp_path):
    start = folder_of(tmp_path, [f"LABEL_{number}" for number in range(4)])
    check_classes(start, config_of(start))


def test_a_head_of_another_size_is_new_anyway(tmp_path):
    start = folder_of(tmp_path, ["a", "b", "c", "d"])
    check_classes(start, config_of(start, ["x", "y"], num_labels=2))
    kept = start.model_copy(update={"head": "kept"})
    with pytest.raises(ValueError, match=r"num_labels=4, and the run .*num_labels=2; leave it out"):
        check_classes(kept, config_of(kept, ["x", "y"], num_labels=2))


def test_without_classes_there_is_nothing_to_say_of_them(tmp_path):
    start = folder_of(tmp_path, NAMES).model_copy(update={"head": "new"})
    config = config_of(start)
    model = config.model.model_copy(update={"head": "masked_lm", "num_labels": None})
    with pytest.raises(ValueError, match=r"init_from\.head=new is given, but model has no head"):
        check_classes(start, config.model_copy(update={"model": model}))


@pytest.mark.parametrize("head", [None, "kept", "new"])
def test_only_a_new_head_is_not_the_runs(head, tmp_path):
    start = run_of(tmp_path, NAMES).model_copy(update={"head": head})
    config = config_of(start)
    layout = ParallelConfig().build(jax.devices()[:1])
    parts = assemble(config, layout=layout, vocab_size=config.model.vocab_size)
    natural = parts.state.params
    saved = saved_shapes(start, config, natural, layout=layout, vocab_size=97)
    # What the run has is looked for in all of its shapes, its own head among them.
    assert {path: leaf.shape for path, leaf in flatten_dict(saved).items()} == {
        path: leaf.shape for path, leaf in flatten_dict(natural).items()
    }
    assert set(new_of(natural, saved, config, start)) == (HEAD if head == "new" else set())


def test_a_config_that_was_written_is_the_same_again(tmp_path):
    start = folder_of(tmp_path, NAMES).model_copy(update={"head": "kept"})
    config = config_of(start)
    assert parse_config(yaml.safe_load(dump_yaml(config)), origin="test") == config
