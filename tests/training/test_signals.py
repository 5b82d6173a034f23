import signal
import subprocess
import sys
import time

import pytest
from commands import runs
from parallel import gangs

LAST_WORDS = "interrupted: run the same command again\n"
# A library that takes SIGTERM over, here without a thought for who had it.
LIBRARY = "def theirs(number, frame): print('theirs', flush=True)\n"
WARNING = (
    "warning: __main__.theirs has taken SIGTERM; the run is saved first, and then it is called\n"
)


def begin(*command, **variables):
    return subprocess.Popen(
        command,
        env=runs.environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(script, **variables):
    """A process that runs `script` after the imports that it needs."""
    imports = "import signal, sys, time\nfrom jaxllm.training.signals import *\n"
    return begin(sys.executable, "-c", imports + script, **variables)


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
        "exit_on_sigterm()\n"
        "with StopRequest() as stop:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(0.2)\n"
        "    print(stop.is_set(), stop.exit_code)\n"
        "signal.raise_signal(signal.SIGTERM)\n"
        "print('went on')"
    )
    assert_interrupted(process, said="True 75\n", timeout=60)


def test_sigterm_ends_the_workers_of_the_process():
    process = python(
        "import multiprocessing\n"
        "context = multiprocessing.get_context('spawn')\n"
        "worker = context.Process(target=time.sleep, args=(60,), daemon=True)\n"
        "worker.start()\n"
        "exit_on_sigterm()\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    # The worker holds the other end of the pipes: they close when it is gone.
    assert_interrupted(process, said="")


def loop(before, *steps):
    """What a loop of one process says that does `steps`, one after the other."""
    alone = "import types; sys.modules['jax'] = types.SimpleNamespace(process_count=lambda: 1)"
    lines = [alone, LIBRARY, "exit_on_sigterm()", before, "with StopRequest() as stop:"]
    for step in steps:
        lines += [f"    {step}", "    print(stop.is_set())"]
    process = python("\n".join([*lines, "print(stop.exit_code)"]))
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return said.split(), errors


RAISE = "signal.raise_signal(signal.SIGTERM)"


def test_further_sigterms_change_nothing():
    assert loop("", RAISE, RAISE, f"{RAISE}; {RAISE}") == (["True"] * 3 + ["75"], "")


@pytest.mark.parametrize("when", ["before the loop", "in the loop"])
def test_a_library_that_takes_sigterm_is_named_once_and_called_after_the_loop(when):
    take = "signal.signal(signal.SIGTERM, theirs)"
    before, first = (take, "pass") if when == "before the loop" else ("pass", take)
    said, errors = loop(before, first, take, RAISE)
    assert said == ["False", "False", "True", "theirs", "75"]
    assert errors == WARNING


def test_a_library_that_exits_on_sigterm_does_so_after_the_loop_and_with_its_code():
    said, errors = loop(
        "def theirs(*_): print('theirs'); sys.exit(9)",
        "signal.signal(signal.SIGTERM, theirs)",
        RAISE,
    )
    assert said == ["False", "True", "theirs", "75"]
    assert errors == WARNING


def test_a_library_that_calls_the_handler_before_it_is_in_no_circle():
    """Nor does the process end there, which would be before what is around the loop is closed."""
    said, errors = loop(
        "before = signal.getsignal(signal.SIGTERM)\n"
        "def theirs(*_): print('theirs'); before(*_)\n"
        "signal.signal(signal.SIGTERM, theirs)",
        "pass",
        RAISE,
    )
    assert said == ["False", "True", "theirs", "75"]
    assert errors == WARNING


def test_a_library_that_sets_the_default_does_not_keep_it():
    said, errors = loop("", "signal.signal(signal.SIGTERM, signal.SIG_DFL)", RAISE)
    assert said == ["False", "True", "75"]
    assert errors == (
        "warning: something has set the handler of SIGTERM to SIG_DFL; it is taken back\n"
    )


def test_a_sigterm_that_only_the_library_takes_is_still_noticed():
    """It comes before the step at which the library is: the thread has seen it."""
    said, _ = loop("", f"signal.signal(signal.SIGTERM, theirs); {RAISE}; time.sleep(0.5)")
    assert said == ["theirs", "True", "theirs", "75"]


@pytest.fixture
def pair():
    """Starts a script as two processes that JAX joins; what is left of them is killed."""
    begun = []

    def start(script):
        port = gangs.free_port()
        for rank in range(2):
            variables = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(rank),
            }
            joined = f"rank = {rank}\nexit_on_sigterm()\nfrom jaxllm.parallel import distributed\n"
            joined += "distributed.initialize()\n"
            begun.append(python(joined + LIBRARY + script, devices=1, **variables))
        return begun

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def ours(said):
    """The lines without those of a library that speaks on stdout."""
    return [line for line in said.splitlines() if not line.startswith("[Gloo]")]


def test_before_the_loop_one_of_several_ends_at_once_and_the_other_with_it(pair):
    """JAX's notifier, which only remembers the signal, is not in the way."""
    first, second = pair(
        "import hashlib\n"
        "print('computing', flush=True)\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)"
    )
    assert second.stdout.readline() == "computing\n"
    second.send_signal(signal.SIGTERM)
    assert second.communicate(timeout=5)[1].endswith(LAST_WORDS)
    _, said = first.communicate(timeout=5)
    assert "is gone; leaving so that the run can be started again" in said
    assert (first.returncode, second.returncode) == (75, 75)


def test_in_the_loop_one_sigterm_stops_several_after_the_same_step(pair):
    """Also where a library has taken the signal, and in a process that does not coordinate."""
    first, second = pair(
        "with StopRequest() as stop:\n"
        "    for step in range(1, 1000):\n"
        "        time.sleep(0.05)\n"
        "        if step == 5 and rank == 1: signal.signal(signal.SIGTERM, theirs)\n"
        "        if step == 10 and rank == 1: signal.raise_signal(signal.SIGTERM)\n"
        "        if stop.is_set(): break\n"
        "print(step, stop.exit_code)\n"
        "distributed.leave(stop.exit_code)"
    )
    (one, _), (other, errors) = (process.communicate(timeout=60) for process in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert WARNING in errors
    (said,), others = ours(one), ours(other)
    assert others == ["theirs", said]
    step, code = said.split()
    assert 10 < int(step) < 999
    assert code == "75"


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
