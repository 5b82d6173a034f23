"""The account of wall time: every second once, whatever ends a start, whatever clocks do."""

import errno
import json
import os
import random
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest

from jaxllm.parallel import last_words
from jaxllm.training.goodput import Goodput
from jaxllm.training.goodput_records import KINDS, read_earlier
from jaxllm.training.phases import Phases

# Records hold milliseconds, and what a start rounds away it carries on: half of one a start.
MILLISECOND = 1e-3


class Machine:
    """Clocks that tests set. `wall` runs with `now`, unless it is made to jump."""

    def __init__(self):
        self.now, self.wall = 50.0, 1_700_000_000.0
        self.said, self.starts = [], []

    def spend(self, seconds):
        self.now += seconds
        self.wall += seconds

    def start(self, run_dir, *, step, busy=False, **known):
        goodput = Goodput(clock=lambda: self.now, wall_clock=lambda: self.wall)
        phases = Phases(goodput)
        self.starts.append(goodput)
        self.spend(2)
        goodput.open(run_dir, step=step, say=self.said.append, **known)
        goodput.watch_device(lambda: busy)
        return goodput, phases


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    for goodput in machine.starts:  # their threads
        goodput.end(0, "done")


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "goodput.jsonl").read_text().splitlines()]


def written(run_dir):
    """The seconds of every kind in the file."""
    return {kind: sum(r["seconds"].get(kind, 0) for r in records(run_dir)) for kind in KINDS}


def steps(machine, phases, numbers, *, seconds=3.0, wait=1.0):
    for step in numbers:
        with phases.during("data"):
            machine.spend(wait)
        machine.spend(seconds)
        phases.stepped(step)


def only(**seconds):
    return dict.fromkeys(KINDS, 0.0) | seconds


def test_every_second_is_of_one_kind(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    with phases.during("restore"):
        machine.spend(1)
    with phases.during("compile"):
        machine.spend(30)
    with phases.during("step"):
        steps(machine, phases, range(1, 5))
        with phases.during("evaluation"):
            machine.spend(6)
        with phases.during("checkpoint"):
            machine.spend(5)
        steps(machine, phases, range(5, 6))
    with phases.during("end"):
        machine.spend(0.5)
    goodput.end(0, "done")
    expected = only(other=3.5, compile=30, data=5, step=15, evaluation=6, checkpoint=5)
    assert goodput.seconds == pytest.approx(expected)
    assert written(tmp_path) == pytest.approx(expected, abs=MILLISECOND)
    assert goodput.figures() == {"goodput": pytest.approx(15 / 64.5)}
    assert machine.said == []


def test_a_wait_during_which_the_device_worked_costs_nothing(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0, busy=True)
    with phases.during("step"):
        steps(machine, phases, range(1, 5))
    assert goodput.seconds == pytest.approx(only(other=2, step=16))


@pytest.mark.parametrize("lost", [0.0, 9.0])
def test_a_kill_costs_a_restart_and_the_steps_since_the_checkpoint(machine, tmp_path, lost):
    """`lost` seconds after its last record the start is killed, 100 more and the next begins."""
    _, phases = machine.start(tmp_path, step=0)
    with phases.during("step"):
        steps(machine, phases, range(1, 9))
        with phases.during("checkpoint"):
            machine.spend(2)
        before = len(records(tmp_path))
        machine.spend(lost)
    assert len(records(tmp_path)) == before + (lost > 1)  # the loop was left
    machine.spend(100)
    goodput, phases = machine.start(tmp_path, step=4)
    with phases.during("restore"):
        machine.spend(3)
    with phases.during("step"):
        steps(machine, phases, range(5, 12))
    goodput.end(0, "done")
    # Steps 1 to 8 and 9 to 11 are progress, 5 to 8 are done again.
    expected = only(other=2, restart=105, data=15, step=33 + lost, recomputation=12, checkpoint=2)
    assert goodput.seconds == pytest.approx(expected)
    assert sum(goodput.seconds.values()) == pytest.approx(machine.now - 50)
    assert written(tmp_path) == pytest.approx(expected, abs=2 * MILLISECOND)
    (start,) = [r for r in records(tmp_path) if r["event"] == "start" and r["before"]]
    assert (start["step"], start["furthest"]) == (4, 8)
    assert start["before"] == {"phase": "step" if not lost else "start"}
    assert start["seconds"] == {"restart": 100}


def test_steps_known_from_the_metrics_are_recomputed_too(machine, tmp_path):
    """A kill may lose the last records of the account, while metrics.jsonl has the steps."""
    machine.start(tmp_path, step=0)
    goodput, phases = machine.start(tmp_path, step=4, furthest=6)
    with phases.during("step"):
        steps(machine, phases, range(5, 9), wait=0)
    # The first start had no time to write what it did.
    assert goodput.seconds == pytest.approx(only(restart=4, recomputation=6, step=6))
    assert records(tmp_path)[1]["before"] == {"phase": "step"}


def test_steps_after_a_rollback_are_recomputed(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    with phases.during("step"):
        steps(machine, phases, range(1, 6), wait=0)
        with phases.during("restore"):
            machine.spend(7)
        steps(machine, phases, range(3, 8), wait=0)
    assert goodput.seconds == pytest.approx(only(other=2, step=21, recomputation=9, restart=7))


def test_a_rollback_is_written_down(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    phases.begin_steps()
    steps(machine, phases, range(1, 6), wait=0)
    goodput.went_back(7, 3)  # two more were dispatched
    steps(machine, phases, range(4, 9), wait=0)
    goodput.end(0, "done")
    (found,) = [record for record in records(tmp_path) if record["event"] == "rollback"]
    assert (found["step"], found["to"], found["phase"]) == (7, 3, "step")
    assert found["seconds"]["step"] > 0
    assert goodput.seconds == pytest.approx(only(other=2, step=18, recomputation=12))
    _, _ = machine.start(tmp_path, step=3)
    assert records(tmp_path)[-1]["furthest"] == 8


def test_an_end_that_skips_all_else_is_written_down(machine, tmp_path, monkeypatch):
    class Gone(BaseException):
        pass

    def leave(code):
        raise Gone(code)

    monkeypatch.setattr(last_words.os, "_exit", leave)
    for reason, expected in ((None, "process 1 is gone"), ("SIGTERM", "SIGTERM")):
        monkeypatch.setattr(last_words, "_ending", threading.Lock())
        monkeypatch.setattr(last_words, "_chosen", [])
        _, phases = machine.start(tmp_path, step=0)
        with phases.during("compile"):
            machine.spend(0.5)
            with pytest.raises(Gone):
                last_words.end(75, "process 1 is gone", reason=reason)
        last = records(tmp_path)[-1]
        assert (last["event"], last["code"], last["reason"]) == ("end", 75, expected)
        assert last["seconds"]["compile"] == 0.5
    assert last_words._listeners == []  # one that has ended listens no more


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0, "other"), (2, "other"), (75, "restart"), (130, "restart"), (None, "restart")],
)
def test_only_a_run_that_is_done_or_cannot_go_on_as_it_was_given_may_rest(
    machine, tmp_path, code, kind
):
    goodput, _ = machine.start(tmp_path, step=0)
    goodput.end(code, "why")
    machine.spend(1000)
    goodput, _ = machine.start(tmp_path, step=0)
    assert goodput.seconds == pytest.approx(only(other=2) | {kind: 1002 + 2 * (kind == "other")})
    assert records(tmp_path)[-1]["before"] == {"code": code, "reason": "why"}


def test_how_a_start_ended_is_in_its_last_record(machine, tmp_path):
    for error, expected in [
        (None, (0, "done")),
        (KeyboardInterrupt(), (130, "ctrl-C")),
        (ValueError("bad\nnews"), (2, "ValueError: bad")),
        (OSError("full"), (None, "OSError: full")),
    ]:
        goodput, _ = machine.start(tmp_path, step=0)
        try:
            with goodput:
                if error:
                    raise error
        except (KeyboardInterrupt, ValueError, OSError):
            pass
        goodput.end(1, "too late")
        last = records(tmp_path)[-1]
        assert (last["event"], last["code"], last["reason"]) == ("end", *expected)


@pytest.mark.parametrize("jump", [-5000.0, 5000.0])
def test_a_jump_of_the_wall_clock_makes_no_span_negative(machine, tmp_path, jump):
    goodput, phases = machine.start(tmp_path, step=0)
    with phases.during("step"):
        steps(machine, phases, range(1, 5))
        machine.wall += jump
        steps(machine, phases, range(5, 9))
    goodput.end(75, "SIGTERM")
    machine.spend(10)
    goodput, phases = machine.start(tmp_path, step=8)
    with phases.during("step"):
        steps(machine, phases, range(9, 20))
    goodput.end(0, "done")
    found = records(tmp_path)
    times = [record["time"] for record in found]
    assert times == sorted(times)
    for before, record in pairwise(found):
        assert all(second >= 0 for second in record["seconds"].values())
        spent = sum(record["seconds"].values())
        assert spent == pytest.approx(record["time"] - before["time"], abs=2 * MILLISECOND)
    # Only the time between the starts depends on the wall clock, and is never less than nothing.
    gap = max(10 + jump, 0.0)
    assert sum(goodput.seconds.values()) == pytest.approx(2 * 2 + 19 * 4 + gap)


@pytest.mark.parametrize("seed", range(5))
def test_the_sum_is_the_wall_time_whatever_happens(machine, tmp_path, seed):
    """Random phases, nested or not, and random ends: each second is counted once."""
    chance = random.Random(seed)
    reached = 0
    for _ in range(6):
        reached = chance.randint(0, reached)
        goodput, phases = machine.start(tmp_path, step=reached)
        with phases.during("step"):
            for _ in range(chance.randint(1, 30)):
                outer, inner = chance.choices(
                    ["data", "compile", "checkpoint", "evaluation", "restore", "end"], k=2
                )
                with phases.during(outer):
                    machine.spend(chance.random() * 4)
                    with phases.during(inner):
                        machine.spend(chance.random() * 4)
                machine.spend(chance.random() * 9)
                reached += 1
                phases.stepped(reached)
        if chance.random() < 0.5:
            goodput.end(75, "SIGTERM")
        machine.spend(chance.random() * 100)
    goodput, _ = machine.start(tmp_path, step=reached)
    assert sum(goodput.seconds.values()) == pytest.approx(machine.now - 50, abs=7 * MILLISECOND)
    # All but the two seconds of this start, which no record has yet.
    total = sum(written(tmp_path).values())
    assert total == pytest.approx(machine.now - 50 - 2, abs=7 * MILLISECOND)


def test_a_record_every_ten_seconds_of_steps(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    with phases.during("step"):
        steps(machine, phases, range(1, 1001), seconds=0.09, wait=0.01)
    goodput.end(0, "done")
    assert 10 <= len(records(tmp_path)) <= 14  # 100 seconds, a start, an end


def test_a_long_phase_gives_signs_of_life(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    with phases.during("compile"):
        for _ in range(6):
            machine.spend(10)
            goodput.beat()
        assert records(tmp_path)[-1] == {
            "event": "spans",
            "time": 1_700_000_062.0,
            "step": 0,
            "phase": "compile",
            "seconds": {"compile": 10},
        }


def test_a_torn_last_record_is_taken_off_and_a_damaged_one_passed_over(machine, tmp_path):
    goodput, _ = machine.start(tmp_path, step=3)
    goodput.end(75, "SIGTERM")
    path = tmp_path / "goodput.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"nonsense\n" + whole + b'{"event": "spa')
    earlier = read_earlier(path)
    assert path.read_bytes() == b"nonsense\n" + whole
    assert earlier.furthest == 3
    assert earlier.seconds["other"] == 2


def test_what_a_full_disk_refused_is_written_later(machine, tmp_path, monkeypatch):
    goodput, phases = machine.start(tmp_path, step=0)
    append = goodput._log.append

    def full(record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "goodput.jsonl"))

    monkeypatch.setattr(goodput._log, "append", full)
    with phases.during("step"):
        steps(machine, phases, range(1, 20))
        assert len(machine.said) == 1
        assert "No space left on device" in machine.said[0]
        monkeypatch.setattr(goodput._log, "append", append)
        steps(machine, phases, range(20, 30))
    goodput.end(0, "done")
    assert sum(written(tmp_path).values()) == pytest.approx(machine.now - 50, abs=MILLISECOND)


def test_other_processes_count_and_write_nothing(machine, tmp_path):
    goodput = Goodput(clock=lambda: machine.now, wall_clock=lambda: machine.wall)
    phases = Phases(goodput)
    with phases.during("step"):
        machine.spend(60)
    goodput.end(0, "done")
    assert goodput.seconds["step"] == 60
    assert list(tmp_path.iterdir()) == []


def test_threads_lose_no_second_and_tear_no_record(machine, tmp_path):
    """Two threads beat while the loop goes on, as the account's own does."""
    goodput, phases = machine.start(tmp_path, step=0)
    is_over = threading.Event()

    def beat():
        while not is_over.is_set():
            goodput.beat()

    threads = [threading.Thread(target=beat) for _ in range(2)]
    for thread in threads:
        thread.start()
    with phases.during("step"):
        steps(machine, phases, range(1, 3001), seconds=0.5, wait=0.5)
    is_over.set()
    for thread in threads:
        thread.join()
    goodput.end(0, "done")
    assert sum(goodput.seconds.values()) == pytest.approx(machine.now - 50)
    assert sum(written(tmp_path).values()) == pytest.approx(machine.now - 50, abs=MILLISECOND)


def test_the_loop_does_not_wait_for_a_record_that_another_thread_writes(machine, tmp_path):
    goodput, phases = machine.start(tmp_path, step=0)
    with goodput._writing:  # as a thread that a slow file system holds up
        with phases.during("evaluation"):
            machine.spend(20)
        goodput.end(0, "done")  # waits half a second, no more
    assert len(records(tmp_path)) == 1
    assert goodput.seconds["evaluation"] == 20


def test_the_end_may_be_told_from_inside_a_record(machine, tmp_path):
    """A signal handler runs in the middle of anything, also while the account is being written."""
    goodput, _ = machine.start(tmp_path, step=0)
    goodput._log = SimpleNamespace(
        append=lambda record: goodput.end(75, "SIGTERM"), close=lambda: None
    )
    machine.spend(20)
    goodput.beat()  # returns: nobody waits for ever
    assert goodput.seconds["other"] == 22
