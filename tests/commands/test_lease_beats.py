"""The lease for file systems without locks, by a clock that the tests set."""

import errno
import json
import os
import subprocess
import sys

import pytest

from jaxllm.commands import lease, lease_beats
from jaxllm.commands.lease import LEASE_FILE, Owner
from jaxllm.commands.lease_beats import BEAT, SLOWEST, VALID, Beats, FilePlace


class Clock:
    """Seconds that pass only when they are told to, and what happens while someone sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.meanwhile = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        while self.meanwhile:
            self.meanwhile.pop(0)()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def beats(tmp_path, clock, monkeypatch):
    """Makes takers of one lease, none of which can see whether another's process is dead."""
    monkeypatch.setattr(lease, "_machine", lambda: "")
    losses = []

    def make():
        place = FilePlace(tmp_path / LEASE_FILE)
        taker = Beats(place, clock=clock, sleep=clock.sleep, on_loss=losses.append)
        taker.losses = losses
        return taker

    return make


def test_a_lease_without_signs_of_life_is_free_after_a_minute_and_not_before(beats, clock):
    first, second = beats(), beats()
    assert first.try_to_take()
    for _ in range(60):
        assert not second.try_to_take()
        clock.now += VALID / 60
    assert second.try_to_take()
    assert not second.losses
    first.beat()
    (loss,) = first.losses
    assert "was lost to process" in loss


def test_signs_of_life_keep_a_lease_for_ever(beats, clock, tmp_path):
    """Whatever the times of the file say, which another host or a jumping clock may have made."""
    first, second = beats(), beats()
    assert first.try_to_take()
    assert not second.try_to_take()
    for beat in range(30):
        assert second.is_surely_held(0.0) == (beat >= 2)
        clock.now += BEAT
        first.beat()
        os.utime(tmp_path / LEASE_FILE, (beat % 3 * 1e9, beat % 3 * 1e9))
        assert not second.try_to_take()
    assert not first.losses


def test_of_two_who_take_it_at_the_same_moment_one_has_it(beats, clock):
    first, second = beats(), beats()
    taken = []
    clock.meanwhile.append(lambda: taken.append(second._write(second._mine.write(beat=0))))
    second._mine = Owner.here()  # it saw the free lease, and writes while the first one settles
    assert not first.try_to_take()
    assert second._is_mine()
    assert taken == [True]


def test_one_that_ended_leaves_it_free_at_once(beats, clock):
    first, second = beats(), beats()
    assert first.try_to_take()
    assert not second.try_to_take()
    first.release()
    assert second.try_to_take()
    first.release()  # not its own any more
    second.beat()
    assert not second.losses


def test_a_file_system_that_errs_now_and_then_is_tried_again_with_a_bound(
    beats, clock, monkeypatch
):
    taker = beats()
    assert taker.try_to_take()

    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as failing:
        failing.setattr(lease_beats.os, "replace", refuse)
        for _ in range(3):
            clock.now += BEAT
            taker.beat()
    clock.now += BEAT
    taker.beat()
    assert not taker.losses
    monkeypatch.setattr(lease_beats.os, "replace", refuse)
    until_loss = 0
    while not taker.losses:
        clock.now += BEAT
        until_loss += BEAT
        taker.beat()
    assert until_loss < VALID - SLOWEST, "another may have it by then"
    assert "Input/output error" in taker.losses[0]


def test_a_process_that_this_machine_knows_to_be_dead_has_no_lease(tmp_path, clock):
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    path = tmp_path / LEASE_FILE
    dead = Owner.here()._replace(process=ended.pid)
    for owner, is_free in (
        (dead._replace(machine="another"), False),
        (dead._replace(process=os.getpid()), False),
        (dead, bool(dead.machine)),
    ):
        path.write_bytes(owner.write(beat=3))
        assert Beats(FilePlace(path), clock=clock, sleep=clock.sleep).try_to_take() == is_free


def test_half_a_line_is_somebody_until_it_is_old(beats, clock, tmp_path):
    (tmp_path / LEASE_FILE).write_bytes(json.dumps({"process": 3}).encode()[:-2])
    taker = beats()
    assert not taker.try_to_take()
    assert taker.owner() is None
    clock.now += VALID
    assert taker.try_to_take()


def test_a_run_whose_lease_was_lost_ends_with_one_line(tmp_path):
    script = """
import errno, os, sys, time
from pathlib import Path
from jaxllm.commands import lease, lease_beats
def refuse(*_): raise OSError(errno.ENOSYS, "none")
lease.fcntl.flock = refuse
lease_beats.BEAT, lease_beats.SETTLE = 0.05, 0.01
with lease.RunLease(Path(sys.argv[1])):
    other = lease.Owner.here()._replace(process=77, host="elsewhere")
    (Path(sys.argv[1]) / ".lease").write_bytes(other.write())
    time.sleep(60)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: the lease ")
    assert "was lost to process 77 on host elsewhere" in line
