"""What holds for every script of tpu/: its shell, its help, its dry run, its settings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .cloud import ROOT, commands
from .fakes.scenario import Job, Life, Scenario

TPU = ROOT / "tpu"
VERBS = ("create", "run", "status", "logs", "delete", "babysit")
HOST_SCRIPTS = ("host_setup", "host_run")
RUNS = Job(code=None)  # until it is stopped


def test_shellcheck_finds_nothing():
    """In any shell script of tpu/, with what each sources; no warning is turned off as a whole."""
    scripts = sorted(TPU.rglob("*.sh"))
    assert {f"{name}.sh" for name in (*VERBS, *HOST_SCRIPTS)} <= {path.name for path in scripts}
    program = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run(
        [program, "--external-sources", "--source-path=SCRIPTDIR", "--shell=bash", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_a_script_is_a_program_with_help(make_cloud, verb):
    """The help names every option that the script takes, and nothing is called."""
    cloud = make_cloud()
    assert os.access(TPU / f"{verb}.sh", os.X_OK)
    ended = cloud.run(f"{verb}.sh", "--help", JAXLLM_PROJECT="")
    assert (ended.code, ended.err) == (0, "")
    assert f"tpu/{verb}.sh" in ended.out
    taken = set(
        re.findall(r"^ +(?:[-\w| ]*\| )?(--[a-z-]+)\)", (TPU / f"{verb}.sh").read_text(), re.M)
    )
    for option in {"--settings", "--dry-run", *taken}:
        assert re.search(rf"^  {option}\b", ended.out, re.M), option
    assert cloud.calls == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", ["--what", "-x"])
def test_an_unknown_option_is_refused(make_cloud, verb, wrong):
    cloud = make_cloud()
    ended = cloud.run(f"{verb}.sh", wrong)
    assert ended.code == 2
    assert wrong in ended.err
    assert cloud.calls == []


@pytest.mark.parametrize("slices", ["1", "2"])
def test_a_dry_run_shows_the_calls_of_a_run_and_makes_none(make_cloud, slices):
    """Of each script, where nothing unexpected happens."""
    cloud = make_cloud(Scenario((Life(job=RUNS),)))
    for verb in ("create", "run", "status", "delete"):
        before = len(cloud.calls)
        dry = cloud.run(f"{verb}.sh", "--dry-run", JAXLLM_SLICES=slices)
        assert dry.code == 0, dry.err
        assert len(cloud.calls) == before
        real = cloud.run(f"{verb}.sh", JAXLLM_SLICES=slices)
        assert real.code == 0, real.err
        assert shown(commands(dry.out)) == shown(cloud.calls[before:])
    assert cloud.left == []


def shown(calls):
    """Calls without the folder of the archive, which is new each time; those of nodes in order."""
    return sorted(
        [re.sub(r".*/(?=jaxllm-[0-9a-f]{12}\.tar\.gz$)", "", word) for word in call]
        for call in calls
    )


def test_a_dry_run_of_the_babysitter_shows_a_whole_life(make_cloud):
    """From the request to the deletion, each kind of call; how often it looks is up to the run."""
    cloud = make_cloud()
    dry = cloud.run("babysit.sh", "--dry-run")
    assert dry.code == 0, dry.err
    assert cloud.calls == []
    real = cloud.run("babysit.sh")
    assert real.code == 0, real.err
    assert unique(commands(dry.out)) == unique(cloud.calls)
    assert cloud.left == []


def unique(calls):
    return sorted({tuple(call) for call in shown(calls)})
