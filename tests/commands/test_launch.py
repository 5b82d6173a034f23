"""The command around the supervision, and one real run that is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from jaxllm.commands.children import Lines
from jaxllm.commands.launch import (
    Checkpoints,
    free_ports,
    newest_step,
    rank_environment,
    read_run_dir,
)

from . import runs


def environment(inherited, *, rank=1):
    return rank_environment(
        inherited,
        rank=rank,
        processes=4,
        devices=2,
        coordinator="127.0.0.1:1",
        lifeline="127.0.0.1:2",
    )


def test_each_process_is_told_who_it_is_and_how_many_devices_it_has():
    flag = "--xla_force_host_platform_device_count"
    inherited = {
        "HOME": "/home",
        "JAX_PLATFORMS": "tpu",
        "JAX_PROCESS_ID": "7",
        "XLA_FLAGS": f"--xla_a=1 {flag}=8  --xla_b=2",
    }
    assert environment(inherited) == {
        "HOME": "/home",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_a=1 --xla_b=2 {flag}=2",
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "1",
        "JAXLLM_LIFELINE_ADDRESS": "127.0.0.1:2",
    }
    assert environment({}, rank=3)["XLA_FLAGS"] == f"{flag}=2"


def test_ports_are_different():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(1024 <= port < 65536 for port in ports)


def test_the_newest_checkpoint_is_the_highest_number(tmp_path):
    assert newest_step(tmp_path / "nowhere") is None
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert newest_step(tmp_path) is None
    for name in ("9", "10", "11.orbax-checkpoint-tmp", "corrupt-12", ".13"):
        (folder / name).mkdir()
    assert newest_step(tmp_path) == 10


def test_in_a_bucket_a_checkpoint_counts_once_it_is_marked_complete(bucket):
    run_dir = f"{bucket.url}/runs/a"
    assert newest_step(run_dir) is None
    for step in (9, 10, 11):
        bucket.put(f"runs/a/checkpoints/{step}/params/data", b"weights")
    assert newest_step(run_dir) is None
    for step in (9, 10):
        bucket.put(f"runs/a/checkpoints/{step}/commit_success.txt", b"complete")
    assert newest_step(run_dir) == 10


@pytest.mark.parametrize("fault", [503, 401, "cut before"])
def test_a_bucket_out_of_reach_counts_as_no_newer_checkpoint(bucket, quick_retries, capfd, fault):
    """The launcher goes on, and says why it may give up earlier."""
    bucket.put("runs/a/checkpoints/9/commit_success.txt", b"complete")
    checkpoints = Checkpoints(f"{bucket.url}/runs/a", Lines())
    bucket.faults.next(fault, times=None)
    assert checkpoints.newest_step() is None
    assert "cannot see whether a checkpoint is newer: gs://" in capfd.readouterr().err
    bucket.faults.clear()
    assert checkpoints.newest_step() == 9


def test_the_run_folder_is_that_of_train(tmp_path):
    config = tmp_path / "one.yaml"
    config.write_text("run_dir: runs/one\nmodel: {num_layers: 2}\n")
    assert str(read_run_dir(str(config))) == "runs/one"
    assert str(read_run_dir(str(config), ["run_dir=a", "seed=3", "run_dir=b=c"])) == "b=c"
    assert str(read_run_dir("demo")) == str(read_run_dir("configs/demo.yaml")) == "runs/demo"
    for name in ("nowhere", "elsewhere/demo.yaml"):
        with pytest.raises(ValueError, match=f"no config file '{name}'"):
            read_run_dir(name)
    for text in ("run_dir: 7", "- run_dir", "model: {", "seed: 1"):
        config.write_text(text)
        with pytest.raises(ValueError, match=r"one\.yaml"):
            read_run_dir(str(config))


# Processes are shells here, which say what they were started as and with.
LAUNCHER = """
import sys
from jaxllm import cli
from jaxllm.commands import launch
launch.sys = type("S", (), {"executable": sys.argv[1]})
sys.argv = ["jaxllm", "launch", *sys.argv[2:]]
try: cli.main()
except SystemExit as end: print(end.code)
print([name for name in ("jax", "numpy", "jaxllm.config") if name in sys.modules])
"""


def launched(*arguments, executable="echo", cwd=None, env=None):
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER, executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env=env,
    )


def test_the_launcher_has_no_jax(tmp_path):
    ended = launched("--processes", "2", "demo", "run_dir=x", "seed=1", cwd=tmp_path)
    arguments = "-m jaxllm.cli train demo run_dir=x seed=1"
    said = ended.stdout.splitlines()
    assert sorted(said[:2]) == sorted([arguments, f"[1] {arguments}"]), ended.stderr
    assert said[2:] == ["0", "[]"]
    assert list(tmp_path.iterdir()) == []


def test_the_one_process_has_the_environment_as_it_is(tmp_path):
    """What it sees of the machine, and who it is among several hosts, is not the launcher's."""
    given = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "JAX_PLATFORMS": "tpu",
        "TPU_WORKER_ID": "3",
        "XLA_FLAGS": "--xla_a=1",
    }
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "$@"; env\n')
    shell.chmod(0o755)
    ended = launched("demo", "run_dir=x", executable=str(shell), cwd=tmp_path, env=given)
    arguments, *variables = ended.stdout.splitlines()
    assert arguments == "-m jaxllm.cli train demo run_dir=x", ended.stderr
    assert variables[-2:] == ["0", "[]"]
    seen = dict(variable.split("=", 1) for variable in variables[:-2])
    for set_by_the_shell in ("PWD", "_", "OLDPWD", "SHLVL"):
        seen.pop(set_by_the_shell, None)
    seen.pop("LC_CTYPE", None)  # Python's own, where no locale is set
    assert seen == given
    assert "started 1 process (pid" in ended.stderr


def test_the_one_process_is_started_again(tmp_path):
    """It fails once, is interrupted once, and is done with the third try."""
    shell = tmp_path / "shell"
    shell.write_text(
        "#!/bin/sh\necho try >> tries; case $(wc -l < tries) in 1) exit 1;; 2) exit 75;; esac\n"
    )
    shell.chmod(0o755)
    ended = launched("demo", "run_dir=x", "--max-backoff=0.01", executable=str(shell), cwd=tmp_path)
    assert ended.stdout.splitlines()[0] == "0", ended.stderr
    assert "restarting in 0.01 s (try 2 of 10)" in ended.stderr
    assert (tmp_path / "tries").read_text().count("try") == 3


def test_cpu_devices_are_those_of_several_processes(tmp_path):
    ended = launched("demo", "--devices-per-process", "4", cwd=tmp_path)
    assert ended.stdout.splitlines()[0] == "2"
    assert "--devices-per-process 4" in ended.stderr
    assert "add --processes" in ended.stderr


STEPS, KILLED_AFTER = 60, 30


def launch(config, run_dir):
    return subprocess.Popen(
        [
            *runs.command("launch", "--processes", 2, "--devices-per-process", 2, config),
            *(f"run_dir={run_dir}", f"training.steps={STEPS}", "checkpoints.every=20"),
        ],
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(run_dir, step, process):
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 200
    while time.monotonic() < deadline:
        lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
        if any(line.endswith("\n") and json.loads(line)["step"] >= step for line in lines[-3:]):
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError(f"no step {step}")


@pytest.fixture(scope="module")
def alone(ids, tmp_path_factory):
    """A launched run that nothing happened to."""
    run_dir = tmp_path_factory.mktemp("launched") / "alone"
    process = launch(ids, run_dir)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "training from scratch" in out
    assert "restarting" not in err
    return run_dir


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_costs_nothing_but_time(ids, alone, tmp_path, rank):
    """The losses, the weights and the position in the data are those of a run left alone."""
    run_dir = tmp_path / "killed"
    process = launch(ids, run_dir)
    started = process.stderr.readline()
    pids = re.search(r"started 2 processes \(pid (\d+), (\d+)\)", started).groups()
    wait_for_step(run_dir, KILLED_AFTER, process)
    os.kill(int(pids[rank]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"process {rank} ended with signal 9 (SIGKILL)" in err
    assert "restarting in 1 s (try 1 of 10)" in err
    assert "resuming at step" in out
    runs.assert_same_run(run_dir, alone, step=STEPS)
