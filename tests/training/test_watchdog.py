import json
import os
import signal
import subprocess
import sys
import time

import pytest
from parallel import gangs
from pydantic import ValidationError

from jaxllm.training.heartbeat import Heartbeat
from jaxllm.training.watchdog import WatchdogConfig

IMPORTS = """
import os, signal, sys, threading, time
from jaxllm.training.watchdog import WatchdogConfig
def dog(limit, start_limit=None):
    return WatchdogConfig(limit=limit, start_limit=start_limit).build(None)
"""


def begin(script, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", IMPORTS + script],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Exit code, stdout and stderr."""
    try:
        said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, *said


def test_a_source_that_blocks_for_ever_ends_the_process_with_all_stacks():
    code, said, errors = ended(
        begin(
            "def waits_for_data(): threading.Event().wait()\n"
            "def other_thread(): time.sleep(60)\n"
            "threading.Thread(target=other_thread, daemon=True).start()\n"
            "with dog(0.5) as watchdog:\n"
            "    watchdog.stepped(7)\n"
            "    watchdog.entered('data')\n"
            "    print('waiting', flush=True)\n"
            "    waits_for_data()"
        )
    )
    assert (code, said) == (75, "waiting\n")
    first, *stacks, last = errors.splitlines()
    assert first == (
        "no progress for 0.5 s (training.watchdog.limit) in 'data', after step 7; "
        "the stacks of all threads:"
    )
    assert any("in waits_for_data" in line for line in stacks)
    assert any("in other_thread" in line for line in stacks)
    assert last == "leaving so that the run can be started again"


def test_it_needs_neither_a_reader_of_stderr_nor_the_main_thread():
    """A megabyte fills the pipe, and the main thread then holds the lock of stderr."""
    process = begin(
        "from jaxllm.training import watchdog as module\n"
        "module._TO_SPEAK = 0.5\n"
        "with dog(0.2) as watchdog:\n    watchdog.stepped(1)\n    sys.stderr.write('x' * 2**20)"
    )
    try:
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.communicate()


def test_progress_of_any_kind_keeps_it_quiet():
    """Each kind for longer than the limit; and past its end nothing is watched."""
    code, said, errors = ended(
        begin(
            "with dog(0.6) as watchdog:\n"
            "    watchdog.stepped(1)\n"
            "    for sign in ('progress', 'entered', 'stepped'):\n"
            "        for _ in range(9):\n"
            "            time.sleep(0.1)\n"
            "            getattr(watchdog, sign)(2 if sign == 'stepped' else 'a batch')\n"
            "time.sleep(1.2)\n"
            "print('done')"
        )
    )
    assert (code, said, errors) == (0, "done\n", "")


def test_before_the_first_step_another_limit_holds():
    code, said, errors = ended(
        begin(
            "with dog(0.2, start_limit=1.0) as watchdog:\n"
            "    watchdog.entered('compile')\n"
            "    time.sleep(0.7)\n"
            "    print('still compiling', flush=True)\n"
            "    time.sleep(60)"
        )
    )
    assert (code, said) == (75, "still compiling\n")
    assert "no progress for 1 s (training.watchdog.start_limit) in 'compile', before" in errors


def test_null_is_for_ever():
    code, said, _ = ended(
        begin("with dog(None) as watchdog:\n    time.sleep(0.5)\n    print('never')")
    )
    assert (code, said) == (0, "never\n")


def test_time_in_which_it_was_stopped_itself_does_not_count():
    process = begin(
        "with dog(2.0) as watchdog:\n"
        "    watchdog.stepped(1)\n"
        "    time.sleep(0.5)\n"  # that step is long seen
        "    print('stepped', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    print('woken', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    watchdog.stepped(2)"
    )
    assert process.stdout.readline() == "stepped\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)  # more than the limit
    process.send_signal(signal.SIGCONT)
    assert ended(process) == (0, "woken\n", "")


def test_the_other_processes_hear_why():
    """They are told through the lifeline, before their own watchdogs would notice."""
    port = gangs.free_port()
    waiting = (
        "from jaxllm.parallel import lifeline\n"
        "from jaxllm.parallel.gang import read_gang\n"
        "lifeline.begin(read_gang(os.environ))\n"
        "with dog({limit}) as watchdog:\n"
        "    watchdog.stepped(3)\n"
        "    time.sleep(60)"
    )
    processes = [
        begin(
            waiting.format(limit=limit),
            JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(rank),
        )
        for rank, limit in enumerate((60.0, 0.5))
    ]
    (one, _, heard), (other, _, said) = (ended(process) for process in processes)
    assert (one, other) == (75, 75)
    assert "stacks of all threads" in said
    assert "ended with code 75: no progress for 0.5 s (training.watchdog.limit)" in heard
    assert "stacks" not in heard


def test_limits_are_seconds_above_zero():
    with pytest.raises(ValidationError):
        WatchdogConfig(limit=0)


def read(path):
    """The record in a heartbeat, once there is one that says `step`."""
    return json.loads(path.read_text(encoding="utf-8"))


def wait_for(is_so):
    deadline = time.monotonic() + 20
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


def test_the_heartbeat_says_step_phase_and_time(tmp_path):
    began = time.time()
    path = tmp_path / "heartbeat"
    with WatchdogConfig().build(tmp_path) as watchdog:
        assert not path.exists()
        watchdog.entered("restore")
        wait_for(path.exists)
        record = read(path)
        assert (record["step"], record["phase"]) == (None, "restore")
        assert began <= record["time"] <= time.time()
        watchdog.stepped(3)
    assert read(path)["step"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_the_heartbeat_is_written_only_after_progress(tmp_path):
    path = tmp_path / "heartbeat"
    with Heartbeat(tmp_path, interval=0.01) as heartbeat:
        heartbeat.beat(4, "step")
        wait_for(path.exists)
        path.unlink()
        time.sleep(0.2)
        assert not path.exists()
        heartbeat.beat(5, "evaluation")
        wait_for(path.exists)
    assert (read(path)["step"], read(path)["phase"]) == (5, "evaluation")


def test_a_heartbeat_that_cannot_be_written_is_left_out(tmp_path):
    """And is written again as soon as it can be."""
    folder = tmp_path / "run"
    with Heartbeat(folder, interval=0.01) as heartbeat:
        time.sleep(0.1)
        folder.mkdir()
        heartbeat.beat(6, "step")
        wait_for((folder / "heartbeat").exists)
