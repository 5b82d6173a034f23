import importlib
import types

import pytest
from pydantic import ValidationError

from jaxllm.training.metrics import MetricsConfig

KINDS = ("wandb", "trackio")


class FakeRun:
    def __init__(self, sent):
        self.sent, self.finished = sent, False

    def log(self, values, step):
        self.sent.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture(params=KINDS)
def tracker(request, monkeypatch):
    """A stand-in for the package of each kind, which keeps what it is told."""
    fake = types.ModuleType(request.param)
    fake.opened, fake.sent, fake.runs = [], [], []

    def init(**settings):
        fake.opened.append(settings)
        fake.runs.append(FakeRun(fake.sent))
        return fake.runs[-1]

    fake.init = init
    fake.Html = lambda text, inject: text
    fake.Markdown = lambda text: text
    monkeypatch.setitem(__import__("sys").modules, request.param, fake)
    return fake


def config(kind, **settings):
    return MetricsConfig(tensorboard=False, loggers=[{"type": kind, "project": "p"} | settings])


def run_steps(run_dir, kind, steps):
    with config(kind).build(run_dir, {"seed": 1}) as writer:
        for step in steps:
            writer.write({"step": step, "loss": float(step)})


def test_records_reach_the_tracker_at_their_step(tracker, tmp_path):
    run_steps(tmp_path / "run", tracker.__name__, [1, 2])
    assert tracker.sent == [(1, {"loss": 1.0}), (2, {"loss": 2.0})]
    assert tracker.opened[0]["config"] == {"seed": 1}
    assert tracker.opened[0]["project"] == "p"
    assert tracker.opened[0]["name"].startswith("run")
    assert tracker.runs[0].finished


def test_a_resumed_run_is_the_same_run_and_sends_no_step_twice(tracker, tmp_path):
    run_steps(tmp_path / "run", tracker.__name__, range(1, 8))
    run_steps(tmp_path / "run", tracker.__name__, range(4, 11))  # resumed after step 3
    assert [step for step, _ in tracker.sent] == list(range(1, 11))
    first, second = tracker.opened
    assert first == second
    assert first["resume"] == "allow"


def test_runs_in_folders_of_one_name_stay_apart(tracker, tmp_path):
    for parent in ("a", "b"):
        run_steps(tmp_path / parent / "run", tracker.__name__, [1])
    key = {"wandb": "id", "trackio": "name"}[tracker.__name__]  # what each knows a run by
    assert tracker.opened[0][key] != tracker.opened[1][key]
    assert len(tracker.sent) == 2


def test_records_of_one_step_are_all_sent(tracker, tmp_path):
    with config(tracker.__name__).build(tmp_path, {}) as writer:
        writer.write({"step": 5, "loss": 1.0})
        writer.write({"step": 5, "validation_loss": 2.0})
        writer.text(5, sample="<b>", prompt="x")
    assert [sorted(values) for _, values in tracker.sent] == [
        ["loss"],
        ["validation_loss"],
        ["sample"],
    ]
    assert "<b>" not in tracker.sent[2][1]["sample"].replace("    <b>", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_names_the_extra_and_leaves_no_file(kind, tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("jaxllm.training.trackers.import_module", missing)
    with pytest.raises(ValueError, match=rf"pip install jaxllm\[{kind}\]"):
        config(kind).build(tmp_path / "run", {})
    assert not (tmp_path / "run").exists()


def test_a_package_that_lacks_one_of_its_own_is_not_called_missing(tmp_path, monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'inner'", name="inner")

    monkeypatch.setattr("jaxllm.training.trackers.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="inner"):
        config("wandb").build(tmp_path, {})
    assert importlib.import_module is not broken


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValidationError, match="wandb"):
        MetricsConfig(loggers=[{"type": "mlflow", "project": "p"}])
