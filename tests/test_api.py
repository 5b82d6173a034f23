"""`import jaxllm`: the verbs as functions, on tiny runs."""

import math
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import runs

import jaxllm
from jaxllm.notebook.run import Interrupted, Run

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="module")
def quick_programs():
    """Programs of a few steps need no optimisation; what a run sets in JAX is undone after."""
    names = (
        "jax_disable_most_optimizations",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config of 6 steps on a few texts."""
    folder = tmp_path_factory.mktemp("api")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(8):
            words = f"the war of {name} and the peace of {number} " * 12
            (folder / name / f"{number}.txt").write_text(words)
    path = folder / "text.yaml"
    path.write_text(runs.TEXT_CONFIG.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def run(config):
    return jaxllm.train(config, {"optim.learning_rate": 2e-3}, "profile.start=null")


def test_train_returns_the_run_with_what_the_overrides_said(run, config):
    assert run.path == config.parent / "run"
    assert run.config.optim.learning_rate == 2e-3
    assert run.config.profile.start is None
    assert run.summary["steps"] == run.step == 6


def test_train_goes_on_where_it_was(run, config):
    """Here there is nothing left to do: the same call returns the same run."""
    before = runs.contents(run.path / "checkpoints")
    again = jaxllm.train(str(config), {"optim.learning_rate": 2e-3, "profile.start": None})
    assert again.path == run.path
    assert runs.contents(run.path / "checkpoints") == before


def test_a_run_generates_what_the_command_does_and_prints_nothing(run, capsys):
    text = run.generate("the ", max_tokens=5, temperature=0)
    assert capsys.readouterr().out == ""
    assert [str(text)] == jaxllm.generate(run, ["the "], max_tokens=5, temperature=0)
    assert text.prompt == "the "


def test_a_run_scores_what_the_command_does(run, capsys):
    scores = run.evaluate()
    assert capsys.readouterr().out == ""
    assert scores == jaxllm.evaluate(run)
    last = run.metrics["validation_loss"][-1]
    total = sum(score.nll for score in scores.values())
    count = sum(score.num_tokens for score in scores.values())
    # Summed in another order.
    assert math.isclose(total / count, last, rel_tol=1e-5)


def test_a_run_reports_exports_and_comes_back(run, tmp_path):
    assert run.report(out=tmp_path / "page.html").read_text().startswith("<!doctype html>")
    folder = run.export(tmp_path / "out")
    again = jaxllm.import_model(folder, tmp_path / "again", {"data.sequence_length": 16})
    assert isinstance(again, Run)
    assert again.config.data.sequence_length == 16
    assert again.generate("the ", max_tokens=5, temperature=0) == run.generate(
        "the ", max_tokens=5, temperature=0
    )


def test_an_interruption_is_saved_and_raised_and_the_same_call_goes_on(config, tmp_path):
    """A signal in the middle of the run, as Jupyter's interrupt is one."""
    keys = {
        "run_dir": tmp_path / "run",
        "training.steps": 80,
        "profile.start": None,
        "evaluation.every": None,
        "samples.every": None,
    }
    handler = signal.getsignal(signal.SIGINT)
    watched = tmp_path / "run" / "checkpoints" / "2"
    with pytest.raises(Interrupted) as caught, interrupted_once_there(watched):
        jaxllm.train(config, keys)
    stopped = caught.value.run
    assert stopped.path == tmp_path / "run"
    assert 2 <= stopped.step < 80
    assert runs.checkpoints(stopped.path)[-1] == stopped.step
    assert signal.getsignal(signal.SIGINT) is handler
    finished = jaxllm.train(config, keys, {"checkpoints.every": 40})
    assert finished.summary["steps"] == 80
    assert np.array_equal(finished.metrics["step"], np.arange(1, 81))


def interrupted_once_there(path):
    """A process that sends this one SIGINT as soon as `path` is there."""
    script = (
        "import os, pathlib, signal, sys, time\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "while not path.exists(): time.sleep(0.01)\n"
        "os.kill(int(sys.argv[2]), signal.SIGINT)"
    )
    return subprocess.Popen([sys.executable, "-c", script, str(path), str(os.getpid())])


def test_sigterm_is_code_75(config, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllm.commands.train.train", lambda loaded: 75)
    with pytest.raises(SystemExit) as caught:
        jaxllm.train(config)
    assert caught.value.code == 75


def test_wrong_keys_of_a_dict_are_answered_as_those_of_the_command_line(config):
    with pytest.raises(ValueError, match="did you mean 'num_layers'"):
        jaxllm.train(config, {"model.num_layer": 3})


def test_importing_jaxllm_loads_nothing_heavy():
    heavy = ("jax", "numpy", "pydantic", "rich", "yaml")
    script = f"import sys, jaxllm; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"


def test_a_plain_installation_finds_the_shipped_configs_by_name(tmp_path, monkeypatch):
    """The wheel, unpacked where no checkout is."""
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    wheel = build_wheel(str(tmp_path))
    installed = tmp_path / "installed"
    zipfile.ZipFile(tmp_path / wheel).extractall(installed)
    script = (
        "import jaxllm.config_files as c; print(c.find_config('demo')); print(*c.shipped_configs())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    found, names = ended.stdout.splitlines()
    assert Path(found) == installed / "jaxllm" / "configs" / "demo.yaml"
    assert set(names.split()) == {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert (installed / "jaxllm" / "reporting" / "chart.css").is_file()
