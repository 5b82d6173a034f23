"""Two real processes on loopback, each with one CPU device, as one run."""

import json
import signal
import socket
import subprocess
import time

import pytest

from . import runs


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def pair():
    """Starts the two processes of a command; whatever is left of them is killed in the end."""
    processes = []

    def start(*arguments, of_second=()):
        address = f"127.0.0.1:{free_port()}"
        for rank in range(2):
            variables = runs.environment(
                devices=1,
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES="2",
                JAX_PROCESS_ID=str(rank),
            )
            process = subprocess.Popen(
                runs.command(*arguments, *(of_second if rank else ())),
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
        return processes

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(processes):
    """Waits for both; what each said, and its exit code."""
    said = [process.communicate(timeout=150) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, said, strict=True)]


def assert_close(one, other):
    """Losses are equal but for the order of sums.

    Two pieces are added in another order than eight, which changes some units in the last place
    of a float32, and the steps of AdamW enlarge that.
    """
    for (step, loss), (_, expected) in zip(one, other, strict=True):
        assert loss == pytest.approx(expected, rel=1e-5), step


def test_stopped_by_one_sigterm_they_leave_what_one_process_goes_on_with(
    ids, uninterrupted, tmp_path, pair
):
    """The weights are cut over both processes, and then over the eight devices of this one."""
    run_dir = tmp_path / "run"
    processes = pair("train", ids, f"run_dir={run_dir}", "training.steps=1000000")
    metrics, deadline = run_dir / "metrics.jsonl", time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert [process.poll() for process in processes] == [None, None], ended(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    first, second = ended(processes)
    assert (first[0], second[0]) == (75, 75), (first, second)
    assert "training from scratch" in first[1]
    assert "processes   2, found by JAX_COORDINATOR_ADDRESS; coordinator 127.0.0.1:" in first[1]
    assert "training" not in second[1], "only the first process speaks"

    stopped = runs.losses(run_dir)[-1][0]
    assert runs.checkpoints(run_dir)[-1] == stopped
    reference, steps = uninterrupted, 8
    if stopped > 6:  # the signal took long to arrive
        reference, steps = tmp_path / "longer", stopped + 2
        assert runs.start(ids, reference, f"training.steps={steps}") == 0
    assert runs.start(ids, run_dir, f"training.steps={steps}") == 0
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, steps + 1))
    assert runs.tensorboard_steps(run_dir) == list(range(1, steps + 1))
    assert runs.data_position(run_dir, steps) == runs.data_position(reference, steps)
    assert_close(runs.losses(run_dir), runs.losses(reference))


def test_an_error_of_one_ends_both_and_says_why(ids, tmp_path, pair):
    """The second process waits for the datasets that the first one cannot make."""
    missing = "data.datasets.ids={type: prepared, path: nowhere}"
    processes = pair("train", ids, f"run_dir={tmp_path}/run", missing)
    first, second = ended(processes)
    assert first[0] == 2
    assert "nowhere" in first[2]
    assert "Traceback" not in first[2]
    assert second[0] != 0


def test_a_config_that_differs_between_them_is_refused_with_the_difference(ids, tmp_path, pair):
    processes = pair("train", ids, f"run_dir={tmp_path}/run", of_second=["seed=7"])
    first, second = ended(processes)
    assert (first[0], second[0]) == (2, 2), (first, second)
    for _, _, errors in (first, second):
        assert "seed: 7 in process 1, 0 in process 0" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_they_prepare_train_score_and_end_as_one_process_does(text, finished, tmp_path, pair):
    run_dir = tmp_path / "run"
    first, second = ended(pair("train", text, f"run_dir={run_dir}", f"data.root={tmp_path}/root"))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert_close(runs.losses(run_dir), runs.losses(finished))
    summary = json.loads((run_dir / "summary.json").read_text())
    expected = json.loads((finished / "summary.json").read_text())
    assert summary["validation_loss"] == pytest.approx(expected["validation_loss"], rel=1e-5)
    assert summary["sample"] == expected["sample"]
