import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm import cli
from jaxllm.config import RunConfig


@pytest.fixture
def jaxllm(monkeypatch, capsys):
    """Runs a command line in this process: its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxllm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return 0 if code is None else code, *capsys.readouterr()

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)  # `train` takes it over


def replace_train(monkeypatch, result):
    """Puts `result` in the place of the training command."""
    import jaxllm.commands.train as module

    def train(config, *, dry_run=False, requested=()):
        if isinstance(result, BaseException):
            raise result
        return result

    monkeypatch.setattr(module, "train", train)


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_imports_neither_jax_nor_the_config():
    script = (
        "import sys; sys.argv = ['jaxllm', '--help']\n"
        "from jaxllm import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([m for m in ('jax', 'numpy', 'pydantic', 'jaxllm.config') if m in sys.modules])"
    )
    shown = python("-c", script)
    assert shown.returncode == 0, shown.stderr
    *text, loaded = shown.stdout.splitlines()
    assert loaded == "[]"
    for verb in "prepare train evaluate generate predict report inspect schema".split():
        assert any(line.split()[:1] == [verb] for line in text), verb


def test_the_installed_command_refuses_a_wrong_config_with_code_2(tmp_path):
    """The real process, whose only words are the error."""
    installed = Path(sys.executable).with_name("jaxllm")
    run_dir = tmp_path / "run"
    refused = python(str(installed), "train", "demo", f"run_dir={run_dir}", "model.layers=3")
    assert refused.returncode == 2
    assert refused.stdout == ""
    first, second = refused.stderr.splitlines()
    assert first.startswith("error: ")
    assert first.endswith("demo.yaml: 1 problem in the config")
    assert second.startswith("  model.layers: unknown key; did you mean 'num_layers'?")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian", "demo"),
        ("train",),
        ("train", "demo", "--fast"),
        ("generate", "runs/x", "--temperature", "warm"),
    ],
)
def test_wrong_usage_is_code_2(jaxllm, arguments):
    code, out, err = jaxllm(*arguments)
    assert code == 2
    assert out == ""
    assert "Usage:" in err


def test_without_a_command_the_help_is_shown(jaxllm):
    _, out, err = jaxllm()
    assert "Usage: jaxllm" in out + err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "nothere"), "no config file 'nothere'"),
        (("train", "demo", "training.steps"), "write key.path=value"),
        (("evaluate", "nowhere"), "nowhere is not a run folder: it has no config.yaml"),
        (("generate", "nowhere"), "nowhere is not a run folder"),
        (("report", "nowhere"), "nowhere is not a folder"),
        (("inspect", "nowhere"), "no config file 'nowhere'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_error_and_code_2(jaxllm, arguments, message):
    code, out, err = jaxllm(*arguments)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: {message}") or message in line


@pytest.mark.parametrize("code", [0, 75, 130])
def test_the_code_of_a_run_is_the_code_of_the_process(jaxllm, monkeypatch, code):
    replace_train(monkeypatch, code)
    assert jaxllm("train", "demo")[0] == code


def test_ctrl_c_outside_the_loop_is_130(jaxllm, monkeypatch):
    replace_train(monkeypatch, KeyboardInterrupt())
    assert jaxllm("train", "demo")[0] == 130


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_sigterm_outside_the_loop_is_75_and_one_line(verb):
    """Here while the config is read; nothing that catches exceptions can swallow it."""
    script = (
        "import signal, sys\n"
        "from jaxllm import cli\n"
        "from jaxllm.verbs import training\n"
        "def load(*_):\n"
        "    try: signal.raise_signal(signal.SIGTERM)\n"
        "    except BaseException: pass\n"
        "training.load = load\n"
        f"sys.argv = ['jaxllm', '{verb}', 'demo']\n"
        "cli.main()"
    )
    stopped = python("-c", script)
    assert stopped.returncode == 75, stopped.stderr
    assert (stopped.stdout, stopped.stderr) == ("", "interrupted: run the same command again\n")


@pytest.mark.parametrize("error", [ValueError("from a library"), OSError("from a library")])
def test_an_error_that_is_not_meant_for_users_keeps_its_traceback(monkeypatch, error):
    replace_train(monkeypatch, error)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["jaxllm", "train", "demo"])
    try:
        with pytest.raises(type(error), match="from a library"):
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_full_disk_is_one_line_and_code_1(jaxllm, monkeypatch, tmp_path):
    import jaxllm.commands.train as module
    from jaxllm.training import logfile

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    metrics = tmp_path / "metrics.jsonl"
    monkeypatch.setattr(logfile.os, "replace", full)
    monkeypatch.setattr(module, "train", lambda *_, **__: logfile.replace_file(metrics, b"{}"))
    code, _, err = jaxllm("train", "demo")
    assert code == 1
    (line,) = err.splitlines()
    assert "The disk is full" in line
    assert str(metrics) in line


def test_train_help_shows_every_key_with_default_and_meaning(jaxllm):
    code, out, _ = jaxllm("train", "--help")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    for line in (
        "run_dir (required)",
        "model[decoder,encoder,encoder_decoder,vision].num_layers = 4",
        "data.datasets.NAME[corpus].corpus[text,jsonl,parquet].paths (required)",
        "optim[muon].learning_rate = 0.02",
        "optim.schedule[wsd].decay_fraction = 0.2",
        "training.ema.decay = 0.999",
        "metrics.loggers.N[wandb].project (required)",
    ):
        assert line in lines, line
        assert len(lines[lines.index(line) + 1].split()) > 2, f"{line} has no meaning"
    assert set(RunConfig.model_fields) <= {
        line.split()[0].split(".")[0].split("[")[0] for line in lines if line
    }


def test_schema_and_configs_are_printed(jaxllm):
    code, out, _ = jaxllm("schema")
    assert code == 0
    assert json.loads(out)["title"] == "RunConfig"
    code, out, _ = jaxllm("configs")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert {"demo", "test_tiny"} <= set(names)
    assert "jaxllm train configs/demo.yaml" in out


def test_an_error_that_nobody_expected_ends_one_of_several_processes_at_once():
    """A normal exit would wait for the others, and run what was registered for it."""
    script = """
import atexit, sys, jax
from jaxllm import cli
from jaxllm.commands import schema
atexit.register(lambda: print("a normal exit"))
jax.distributed.is_initialized = lambda: True
schema.list_configs = lambda: 1 / 0
sys.argv = ["jaxllm", "configs"]
cli.main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stderr
    assert "a normal exit" not in ended.stdout
