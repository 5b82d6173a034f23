from pathlib import Path

import pytest
import yaml

from jaxllm.commands.resumption import check_resumable, differences
from jaxllm.config import apply_override, load_config, parse_config

RAW = {
    "run_dir": "runs/x",
    "model": {"num_layers": 2, "embed_dim": 32},
    "data": {
        "sequence_length": 16,
        "global_batch_size": 8,
        "tokenizer": {"type": "byte"},
        "datasets": {"web": {"type": "corpus", "corpus": {"type": "text", "paths": ["*.txt"]}}},
    },
    "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "cosine"}},
    "training": {"steps": 100},
}


@pytest.fixture
def write(tmp_path):
    """Writes a config file: text as it is, anything else as YAML."""

    def write(content=RAW):
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def load(write):
    """Loads RAW with overrides."""
    return lambda *overrides: load_config(write(), overrides)


def test_differences_have_both_values(load):
    found = list(differences(load("training.ema={}"), load("seed=1", "model.norm=layer")))
    assert ("seed", 0, 1) in found
    assert ("model.norm", "rms", "layer") in found
    assert ("training.ema.decay", 0.999, None) in found


@pytest.mark.parametrize(
    "override",
    [
        "run_dir=elsewhere",
        "parallel.layout=data",
        "checkpoints.every=7",
        "checkpoints.keep_latest=5",
        "evaluation.every=7",
        "samples.prompts=[hello]",
        "metrics.log_every=10",
        "metrics.loggers=[{type: wandb, project: p}]",
        "profile.start=3",
        "compilation_cache=null",
        "training.num_microbatches=2",
        "training.watchdog.limit=7200",
        "model.remat=full",
        "model.is_scanned=false",
        "data.root=elsewhere",
        "data.workers=3",
        "data.prefetch=9",
    ],
)
def test_where_and_when_may_change_on_resume(load, override):
    check_resumable(load(), load(override), run_dir=Path("runs/x"))


@pytest.mark.parametrize("override", ["model.text.remat=full", "model.vision.is_scanned=false"])
def test_so_they_may_in_each_tower(load, override):
    model = "model={type: two_towers, text: {is_tied: true}, vision: {head: none}}"
    towers = (model, "objective={type: image_text}", "data.datasets={}")
    check_resumable(load(*towers), load(*towers, override), run_dir=Path("runs/x"))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("seed=1", "seed: 0 in the run folder, 1 given"),
        ("model.num_layers=3", "model.num_layers: 2 in the run folder, 3 given"),
        ("model.dropout=0.5", "model.dropout: 0.0 in the run folder, 0.5 given"),
        ("data.global_batch_size=16", "data.global_batch_size: 8 in the run folder, 16 given"),
        ("data.shuffle=false", "data.shuffle: True in the run folder, False given"),
        ("data.datasets.web.weight=2", "data.datasets.web.weight: 1.0 in the run folder, 2.0"),
        ("objective.z_loss=1.0e-4", "objective.z_loss: 0.0 in the run folder, 0.0001 given"),
        ("optim.clip_norm=null", "optim.clip_norm: 1.0 in the run folder, None given"),
        ("optim.type=lion", "optim.type: 'adamw' in the run folder, 'lion' given"),
        ("training.ema={}", "training.ema.decay: None in the run folder, 0.999 given"),
    ],
)
def test_what_is_computed_may_not_change_on_resume(load, override, line):
    given = load(override) if "lion" not in override else load("optim={type: lion}")
    with pytest.raises(ValueError, match="another run_dir to start anew") as refused:
        check_resumable(load(), given, run_dir=Path("runs/x"))
    assert f"  {line}" in str(refused.value)


def test_the_number_of_steps_may_change_only_where_no_schedule_hangs_on_it(load):
    constant = "optim.schedule={type: constant}"
    for steps in (50, 200):
        check_resumable(
            load(constant), load(constant, f"training.steps={steps}"), run_dir=Path("runs/x")
        )
        for schedule in ("linear", "cosine", "wsd"):
            kind = f"optim.schedule={{type: {schedule}}}"
            given = load(kind, f"training.steps={steps}")
            with pytest.raises(ValueError, match="only under a schedule that does not depend"):
                check_resumable(load(kind), given, run_dir=Path("runs/x"))


def test_what_may_change_on_request_goes_on_only_then(load):
    run_dir, given = Path("runs/x"), load("optim.learning_rate=0.02", "training.steps=200")
    with pytest.raises(ValueError, match=r"--change optim.learning_rate --change training.steps"):
        check_resumable(load(), given, run_dir=run_dir)
    with pytest.raises(ValueError, match=r"training.steps: 100 in the run folder, 200 given"):
        check_resumable(load(), given, run_dir=run_dir, requested=["optim.learning_rate"])
    requested = ["optim.learning_rate", "training.steps"]
    check_resumable(load(), given, run_dir=run_dir, requested=requested)


@pytest.mark.parametrize("key", ["data.sequence_length", "seed", "model", "optim", "optim.type"])
def test_what_no_checkpoint_would_fit_does_not_change_on_request(load, key):
    with pytest.raises(ValueError, match=f"--change {key}: this may not change") as refusal:
        check_resumable(load(), load(), run_dir=Path("runs/x"), requested=[key])
    assert "optim.learning_rate" in str(refusal.value)


def test_no_request_is_offered_where_it_would_not_help(load):
    with pytest.raises(ValueError, match="another config") as refusal:
        check_resumable(load(), load("optim.learning_rate=0.02", "seed=1"), run_dir=Path("runs/x"))
    assert "--change" not in str(refusal.value)


def test_weights_beside_a_run_may_lie_elsewhere_later(load):
    """Their fingerprint is compared when they are read; what starts a run may not change."""
    there, here = (f"init_from={{type: run, path: {path}, step: 2}}" for path in ("a", "b"))
    frozen = "training.frozen=[embed]"
    saved, given = (load_plainly(load, start) for start in (there, here))
    with pytest.raises(ValueError, match=r"init_from\.path: 'a' in the run folder, 'b' given"):
        check_resumable(saved, given, run_dir="runs/x")
    saved, given = (load_plainly(load, start, frozen) for start in (there, here))
    check_resumable(saved, given, run_dir="runs/x")


def load_plainly(load, start, *overrides):
    """A config with a start that is not there."""
    raw = load().model_dump(mode="json")
    for override in (start, *overrides):
        apply_override(raw, override)
    return parse_config(raw, origin="run.yaml")
