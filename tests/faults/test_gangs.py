"""Processes of a run of four that are asked to stop, die, hang or never come."""

import signal
import socket

import pytest
from commands import runs

from .gangs import Gang, last_step

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def one_try(experiment, request):
    """Each test here is one gang, in the words of its name."""
    name = request.node.name.removeprefix("test_").replace("_", " ")
    experiment.done = f"several processes: {name}"
    experiment.tries = 1
    experiment.kills = int(any(word in name for word in ("sigterm", "killed", "stopped")))


HOST = socket.gethostname()
COUNT = 4
ENDLESS = "training.steps=1000000"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Its compiled programs serve every start."""
    folder = tmp_path_factory.mktemp("gangs")
    runs.write_ids(folder)
    file = folder / "ids.yaml"
    file.write_text(runs.IDS_CONFIG.format(folder=folder))
    return file


@pytest.fixture
def gang(config, tmp_path):
    """Starts the processes of a run; what is left of them is killed in the end."""
    gangs = []

    def start(*overrides, count=COUNT, **options):
        arguments = ("train", config, f"run_dir={tmp_path}/run", *overrides)
        folder = tmp_path / f"said_{len(gangs)}"
        gangs.append(Gang(arguments, count=count, folder=folder, **options))
        return gangs[-1]

    yield start
    for one in gangs:
        one.close()


@pytest.fixture
def running(gang, tmp_path):
    """Starts a run, and waits until it has done some steps."""

    def running(*overrides, **options):
        started = gang(ENDLESS, *overrides, **options)
        started.wait_for_step(tmp_path / "run", 5)
        return started

    return running


def gone(rank):
    return f"process {rank} (host {HOST}) is gone; leaving so that the run can be started again"


def test_a_sigterm_to_one_stops_all_at_a_saved_step_from_which_the_next_start_goes_on(
    running, gang, tmp_path
):
    stopped = running()
    stopped.processes[2].send_signal(signal.SIGTERM)
    assert stopped.ended(within=15) == dict.fromkeys(range(COUNT), 75)
    for rank in range(COUNT):
        assert "Traceback" not in stopped.said(rank)
        assert "is gone" not in stopped.said(rank)
    saved = last_step(tmp_path / "run")
    assert runs.checkpoints(tmp_path / "run")[-1] == saved

    again = gang(f"training.steps={saved + 2}")
    assert again.ended(within=180) == dict.fromkeys(range(COUNT), 0)
    assert f"resuming at step {saved}" in again.said(0)
    steps = [step for step, _ in runs.losses(tmp_path / "run")]
    assert steps == list(range(1, saved + 3))


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_ends_all_others_with_a_line_that_names_it(running, victim):
    hurt = running()
    hurt.processes[victim].kill()
    others = [rank for rank in range(COUNT) if rank != victim]
    assert hurt.ended(within=5, but=[victim]) == dict.fromkeys(others, 75)
    for rank in others:
        assert gone(victim) in hurt.said(rank).splitlines()  # among what JAX says of it


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_ends_the_gang_through_the_watchdog(running, victim):
    hurt = running("training.watchdog.limit=6", count=2)
    hurt.processes[victim].send_signal(signal.SIGSTOP)
    others = [1 - victim]
    assert hurt.ended(within=20, but=[victim]) == dict.fromkeys(others, 75)
    said = [hurt.said(rank) for rank in others]
    assert any("no progress for 6 s (training.watchdog.limit)" in words for words in said)
    assert any("Current thread" in words for words in said)
    hurt.processes[victim].send_signal(signal.SIGCONT)
    assert hurt.ended(within=20)[victim] == 75


# From the sixth batch on, in process 1 only, nothing comes.
BLOCKING = """
import os, sys, threading
from jaxllm import cli
from jaxllm.data import loader
def blocking(self, step):
    if step >= 6 and os.environ["JAX_PROCESS_ID"] == "1":
        threading.Event().wait()
    return batch(self, step)
batch, loader.TrainLoader.batch = loader.TrainLoader.batch, blocking
cli.main()
"""


def test_a_data_source_that_blocks_for_ever_ends_the_gang_through_the_watchdog(gang):
    hurt = gang(ENDLESS, "training.watchdog.limit=6", count=2, script=BLOCKING)
    assert hurt.ended(within=180) == {0: 75, 1: 75}
    said = hurt.said(0) + hurt.said(1)
    assert "no progress for 6 s (training.watchdog.limit)" in said
    assert "Current thread" in said


def test_before_the_loop_a_sigterm_to_one_ends_all_at_once(gang):
    """While the others wait for it, and JAX's notifier is there."""
    started = gang(ENDLESS, count=2, script=STOPPED_WHILE_COMPILING)
    assert started.ended(within=180) == {0: 75, 1: 75}
    assert "interrupted: run the same command again" in started.said(1)


STOPPED_WHILE_COMPILING = """
import os, signal
from jaxllm import cli
from jaxllm.commands import train
def stopped(*arguments, **options):
    if os.environ["JAX_PROCESS_ID"] == "1":
        signal.raise_signal(signal.SIGTERM)
    return lower(*arguments, **options)
lower, train.lower_step = train.lower_step, stopped
cli.main()
"""


def test_a_host_that_is_missing_is_named_to_all_others(gang):
    started = gang(ENDLESS, ranks=[0, 1, 3], JAXLLM_START_TIMEOUT="20")
    assert started.ended(within=60) == dict.fromkeys([0, 1, 3], 1)
    for rank in (0, 1, 3):
        assert "error: process 2 of 4 did not come to process 0" in started.said(rank)
        assert "127.0.0.1:" in started.said(rank)


def test_a_wrong_address_is_named_by_who_could_not_reach_it(gang):
    wrong = "nowhere.invalid:4321"
    started = gang(ENDLESS, ranks=[1], JAX_COORDINATOR_ADDRESS=wrong, JAXLLM_START_TIMEOUT="2")
    assert started.ended(within=60) == {1: 1}
    said = started.said(1)
    assert f"error: process 1 on {HOST} could not reach process 0 at nowhere.invalid:4322" in said
    assert "JAX_COORDINATOR_ADDRESS" in said
    assert "Traceback" not in said


FAILING = """
import os
from jaxllm import cli
from jaxllm.commands import train
def failing(*arguments, **options):
    if os.environ["JAX_PROCESS_ID"] == "1":
        raise RuntimeError("of one alone")
    return lower(*arguments, **options)
lower, train.lower_step = train.lower_step, failing
cli.main()
"""


def test_the_error_of_one_ends_all_with_its_reason(gang):
    started = gang(ENDLESS, count=2, script=FAILING)
    assert started.ended(within=180) == {0: 1, 1: 1}
    assert started.said(1).splitlines()[-1] == "RuntimeError: of one alone"
    expected = f"process 1 (host {HOST}) ended with code 1: RuntimeError: of one alone"
    assert started.said(0).splitlines()[-1] == expected
