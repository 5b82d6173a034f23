import signal
import subprocess
import sys
import time

import pytest
from commands import runs

LAST_WORDS = "interrupted: run the same command again\n"


def begin(*command):
    return subprocess.Popen(
        command,
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(script):
    return begin(sys.executable, "-c", f"from jaxllm.training.guards import *\n{script}")


def assert_interrupted(process, *, said, timeout=30):
    assert process.communicate(timeout=timeout) == (said, LAST_WORDS)
    assert process.returncode == 75


def test_sigterm_within_a_callback_that_swallows_exceptions_ends_the_process():
    """As in JAX's own callback, where a SystemExit would be printed and forgotten."""
    process = python(
        "import gc\n"
        "exit_on_sigterm()\n"
        "print('said before')\n"
        "gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGTERM))\n"
        "gc.collect()\n"
        "print('went on')"
    )
    assert_interrupted(process, said="said before\n")


def test_sigterm_does_not_wait_for_compiled_code():
    """pbkdf2_hmac computes for a minute without a look at signals, as a compiler does."""
    process = python(
        "import hashlib\n"
        "exit_on_sigterm()\n"
        "print('computing', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    )
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    try:
        assert_interrupted(process, said="", timeout=5)
    finally:
        process.kill()


def test_a_loop_takes_sigterm_over_and_gives_it_back():
    process = python(
        "import time\n"
        "exit_on_sigterm()\n"
        "with StopRequest() as stop:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "    print(stop.is_set(1), stop.exit_code)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('went on')"
    )
    assert_interrupted(process, said="True 75\n", timeout=60)


def test_sigterm_ends_the_workers_of_the_process():
    process = python(
        "import time\n"
        "context = multiprocessing.get_context('spawn')\n"
        "worker = context.Process(target=time.sleep, args=(60,), daemon=True)\n"
        "worker.start()\n"
        "exit_on_sigterm()\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    # The worker holds the other end of the pipes: they close when it is gone.
    assert_interrupted(process, said="")


@pytest.fixture
def config(tmp_path):
    runs.write_ids(tmp_path)
    file = tmp_path / "ids.yaml"
    file.write_text(runs.IDS_CONFIG.format(folder=tmp_path))
    return file


def test_sigterm_while_the_step_compiles_is_75_every_time(config, tmp_path):
    """After the summary the first state and the step are compiled, for a second or so."""
    processes = [
        begin(
            *runs.command("train", config, f"run_dir={tmp_path}/{number}", "training.steps=100000"),
            f"compilation_cache={tmp_path}/compiled{number}",
        )
        for number in range(3)
    ]
    for number, process in enumerate(processes):
        while "run folder" not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        time.sleep(0.2 * number)
        process.send_signal(signal.SIGTERM)
    for process in processes:
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) in ((75, LAST_WORDS), (75, "")), errors
