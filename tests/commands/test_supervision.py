"""Real processes, which do nothing but end, wait and note their signals."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

# Supervises processes that run a script; the pauses and the patience are short here.
LAUNCHER = """
import os, signal, sys
from pathlib import Path
from jaxllm.commands import supervision
from jaxllm.commands.children import Command, Lines
from jaxllm.commands.restarts import Restarts

folder, count, backoff, grace, script = sys.argv[1:]
supervision.ENDING_GRACE = float(grace)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # where the tests themselves run without a terminal
tries = 0

def commands():
    global tries
    tries += 1
    return [
        Command(
            (sys.executable, "-I", "-S", "-c", script, folder),
            {**os.environ, "RANK": str(rank), "TRY": str(tries)},
        )
        for rank in range(int(count))
    ]

restarts = Restarts(max_restarts=3, max_backoff=float(backoff))
lines = Lines()
sys.exit(supervision.supervise(commands, restarts, newest_step=lambda: None, lines=lines))
"""
# What the script of a process begins with.
PROCESS = """
import os, signal, subprocess, sys, time
folder, rank, attempt = sys.argv[1], int(os.environ["RANK"]), int(os.environ["TRY"])

def note(words):
    with open(os.path.join(folder, "notes"), "a") as file:
        file.write(words + "\\n")

def leave(code):
    def handler(number, frame):
        note(f"{rank} got {signal.Signals(number).name}")
        time.sleep(0.2)  # a second one would be noted too
        os._exit(code)
    return handler

def tell_waiting():
    note(f"{rank} waits {os.getpid()}")

def wait():
    tell_waiting()
    while True:
        time.sleep(0.02)

def until_waiting(count):
    path = os.path.join(folder, "notes")
    while not os.path.exists(path) or open(path).read().count(" waits ") < count:
        time.sleep(0.02)
"""


class Launched:
    """A launcher that runs, and what its processes noted."""

    def __init__(self, folder, script, *, count=3, backoff=0.05, grace=5.0):
        self.folder = folder
        arguments = (folder, count, backoff, grace, PROCESS + script)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def notes(self):
        path = self.folder / "notes"
        return path.read_text().splitlines() if path.exists() else []

    def waiting(self, count):
        """The numbers of `count` processes, once so many wait."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = [int(line.split()[2]) for line in self.notes() if " waits " in line]
            if len(found) >= count:
                return found
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        raise AssertionError(self.notes())

    def ended(self):
        """Its exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def launched(tmp_path):
    """Starts launchers; whatever is left of them is killed in the end."""
    started = []

    def start(script, **options):
        started.append(Launched(tmp_path, script, **options))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def is_running(pid):
    """Whether a process is there, other than as a zombie that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pids):
    deadline = time.monotonic() + 30
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_lines_are_passed_on_with_their_process_and_apart(launched):
    """The first process has stdout for itself; a last line without its end is whole too."""
    script = "print(f'out {rank}', flush=True); sys.stderr.write(f'err {rank}')"
    code, out, err = launched(script).ended()
    assert code == 0
    assert Counter(out.splitlines()) == Counter(["out 0", "[1] out 1", "[2] out 2"])
    told = [line for line in err.splitlines() if " launch: " in line]
    assert Counter(err.splitlines()) == Counter(["[0] err 0", "[1] err 1", "[2] err 2", *told])
    started, done = told
    assert "started 3 processes (pid " in started
    assert done.endswith("launch: all processes ended with code 0")


@pytest.mark.parametrize("code", [2, 130])
def test_a_wrong_command_and_ctrl_c_end_all_and_are_not_tried_again(launched, code):
    gang = launched(
        f"""
if rank == 0:
    signal.signal(signal.SIGTERM, leave(75))
    wait()
until_waiting(1)
os._exit({code})
""",
        count=2,
    )
    assert gang.ended()[0] == code
    assert [line.split()[:2] for line in gang.notes()] == [["0", "waits"], ["0", "got"]]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os.kill(os.getpid(), 9)", "process 1 ended with signal 9 (SIGKILL)"),
        ("os._exit(1)", "process 1 ended with code 1"),
    ],
)
def test_after_a_failure_the_others_end_and_all_start_again(launched, end, words):
    gang = launched(
        f"""
if attempt == 1:
    if rank == 1:
        until_waiting(2)
        {end}
    signal.signal(signal.SIGTERM, leave(75))
    wait()
note(f"again {{rank}}")
"""
    )
    code, _, err = gang.ended()
    assert code == 0, err
    assert words in err
    assert "ending processes 0, 2" in err
    assert "restarting in 0.05 s (try 1 of 3)" in err
    notes = [line for line in gang.notes() if "waits" not in line]
    assert sorted(notes[:2]) == ["0 got SIGTERM", "2 got SIGTERM"]
    assert sorted(notes[2:]) == ["again 0", "again 1", "again 2"]


def test_one_that_was_interrupted_is_waited_with_until_the_others_have_saved(launched):
    gang = launched(
        """
if attempt == 1:
    signal.signal(signal.SIGTERM, leave(1))
    time.sleep(0.3 * rank)
    note(f"{rank} saved")
    os._exit(75)
"""
    )
    code, _, err = gang.ended()
    assert code == 0
    assert sorted(gang.notes()) == ["0 saved", "1 saved", "2 saved"]
    assert "restarting" in err


def test_it_gives_up_when_no_try_gets_further(launched):
    gang = launched("note('try'); os._exit(1)", count=1)
    code, _, err = gang.ended()
    assert code == 1
    assert gang.notes() == ["try"] * 4
    assert "giving up: 3 restarts without any checkpoint" in err


def test_a_stopped_process_and_a_deaf_one_are_killed(launched):
    gang = launched(
        """
if attempt == 1:
    if rank == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        wait()
    if rank == 1:
        tell_waiting()
        os.kill(os.getpid(), signal.SIGSTOP)
    until_waiting(2)
    os._exit(1)
""",
        grace=0.3,
    )
    pids = gang.waiting(2)
    code, _, err = gang.ended()
    assert code == 0, err
    assert "still there, so killing processes 0, 1" in err
    assert_gone(pids)


def test_sigterm_is_passed_on_once_and_the_end_is_75(launched):
    gang = launched("signal.signal(signal.SIGTERM, leave(75)); wait()")
    gang.waiting(3)
    gang.process.send_signal(signal.SIGTERM)
    gang.process.send_signal(signal.SIGTERM)
    code, _, err = gang.ended()
    assert code == 75
    got = Counter(line for line in gang.notes() if "got" in line)
    assert got == {f"{rank} got SIGTERM": 1 for rank in range(3)}
    assert "SIGTERM: passed on to processes 0, 1, 2" in err
    assert "restarting" not in err


def test_a_closed_terminal_lets_the_run_save(launched):
    gang = launched("signal.signal(signal.SIGTERM, leave(75)); wait()", count=1)
    gang.waiting(1)
    gang.process.send_signal(signal.SIGHUP)
    assert gang.ended()[0] == 75
    assert gang.notes()[1:] == ["0 got SIGTERM"]


def test_ctrl_c_reaches_each_process_once(launched):
    """A terminal sends it to the whole group of the launcher."""
    gang = launched("signal.signal(signal.SIGINT, leave(130)); wait()")
    gang.waiting(3)
    os.killpg(gang.process.pid, signal.SIGINT)
    assert gang.ended()[0] == 130
    got = Counter(line for line in gang.notes() if "got" in line)
    assert got == {f"{rank} got SIGINT": 1 for rank in range(3)}


def test_a_second_ctrl_c_kills(launched):
    gang = launched("signal.signal(signal.SIGINT, lambda *_: note('deaf')); wait()", count=1)
    (pid,) = gang.waiting(1)
    os.killpg(gang.process.pid, signal.SIGINT)
    while "deaf" not in gang.notes():
        time.sleep(0.02)
    os.killpg(gang.process.pid, signal.SIGINT)
    code, _, err = gang.ended()
    assert code == 130
    assert "launch: killing process 0" in err, "and not because it took too long"
    assert not is_running(pid)


def test_a_pause_ends_at_once_when_the_end_is_asked_for(launched):
    gang = launched("os._exit(1)", count=1, backoff=1000.0)
    for line in gang.process.stderr:
        if "restarting in 1 s" in line:
            break
    gang.process.send_signal(signal.SIGTERM)
    code, _, err = gang.ended()
    assert code == 75
    assert "started" not in err


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_outlives_a_killed_launcher(launched):
    """Not a process, not its workers, not one that is stopped or deaf; nor the guardian.

    Its whole process group is killed, as some schedulers do.
    """
    gang = launched(
        """
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
note(f"{rank} waits {worker.pid}")
note(f"{rank} waits {os.getpid()}")
os.kill(os.getpid(), signal.SIGSTOP) if rank else wait()
""",
        count=2,
    )
    pids = gang.waiting(5)
    children = Path(f"/proc/{gang.process.pid}/task/{gang.process.pid}/children").read_text()
    os.killpg(gang.process.pid, signal.SIGKILL)
    gang.process.wait()
    assert len(children.split()) == 3  # the guardian is the third
    assert_gone({*pids, *map(int, children.split())})


def test_workers_do_not_outlive_their_process(launched):
    gang = launched(
        """
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
note(f"{rank} waits {worker.pid}")
""",
        count=1,
    )
    code, _, _ = gang.ended()
    assert code == 0
    assert_gone([int(line.split()[2]) for line in gang.notes()])
