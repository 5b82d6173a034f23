"""The lease of a run folder in a bucket, against an emulator of the service."""

import os
import subprocess
import sys

import pytest

from jaxllm.commands import lease, lease_beats
from jaxllm.commands.lease import LEASE_FILE, Owner, RunLease
from jaxllm.commands.lease_beats import BEAT, SLOWEST, VALID, Beats
from jaxllm.storage.stored_object import StoredObject

from .test_lease_beats import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def beats(bucket, clock, monkeypatch):
    """Makes takers of one lease, none of which can see whether another's process is dead."""
    monkeypatch.setattr(lease, "_machine", lambda: "")
    losses = []

    def make(**more):
        stored = StoredObject(f"{bucket.url}/run/{LEASE_FILE}", **more)
        taker = Beats(stored, settle=0.0, clock=clock, sleep=clock.sleep, on_loss=losses.append)
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


def test_signs_of_life_keep_it_and_an_end_frees_it(beats, clock):
    first, second = beats(), beats()
    assert first.try_to_take()
    for beat in range(10):
        assert not second.try_to_take()
        assert second.is_surely_held(0.0) == (beat >= 2)
        clock.now += BEAT
        first.beat()
    first.release()
    assert second.try_to_take()
    first.release()  # not its own any more
    second.beat()
    assert not first.losses


def test_of_two_who_take_it_at_the_same_moment_one_has_it(beats, bucket):
    first, second = beats(), beats()
    assert second._place.read() == b""  # both see it free
    assert first.try_to_take()
    second._mine = Owner.here()
    assert not second._write(second._mine.write(beat=0))
    first.beat()
    assert not first.losses


def test_a_sign_of_life_that_comes_late_takes_nothing_back(beats, clock):
    """As of a process that was stopped between its look and its writing."""
    first, second = beats(), beats()
    assert first.try_to_take()
    assert not second.try_to_take()
    assert first._is_mine()
    clock.now += VALID
    assert second.try_to_take()
    assert not first._write(first._mine.write(beat=1))
    assert second._is_mine()


def test_a_lost_answer_is_no_lost_lease(beats, bucket):
    taker = beats()
    bucket.faults.next("cut after", method="POST")
    assert taker.try_to_take()
    bucket.faults.next("cut after", method="POST")
    taker.beat()
    taker.beat()
    assert not taker.losses
    assert bucket.faults.count == 2


@pytest.mark.parametrize("seconds", [BEAT, BEAT + SLOWEST], ids=["quick", "slow"])
def test_an_outage_is_waited_out_with_a_bound(beats, bucket, clock, seconds):
    """seconds: from one sign of life to the next, the time that it takes included."""
    taker = beats(timeout=0.1)
    assert taker.try_to_take()
    bucket.faults.next(503, times=None)
    for _ in range(3):
        clock.now += BEAT
        taker.beat()
    bucket.faults.clear()
    clock.now += BEAT
    taker.beat()
    assert not taker.losses
    bucket.faults.next(503, times=None)
    until_loss = 0
    while not taker.losses:
        clock.now += seconds
        until_loss += seconds
        taker.beat()
    assert until_loss < VALID, "another may have it by then"
    assert "no answer within" in taker.losses[0]


def test_a_second_run_is_refused_and_told_by_whom(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lease_beats, "BEAT", 0.05)
    monkeypatch.setattr(lease, "_TICK_THERE", 0.02)
    url = f"{bucket.url}/run"
    with RunLease(tmp_path, origin=url):
        refused = pytest.raises(
            ValueError, match=f"run_dir {url} is in use by process {os.getpid()}"
        )
        with refused, RunLease(tmp_path / "other", origin=url, patience=0.1):
            pass
    with RunLease(tmp_path, origin=url, patience=0.0):
        pass
    assert bucket.files("run") == {LEASE_FILE: b""}
    assert not list(tmp_path.iterdir()), "the lease is there, not here"


def test_a_killed_run_of_this_machine_leaves_it_free_at_once(bucket, tmp_path):
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    dead = Owner.here()._replace(process=ended.pid)
    bucket.put(f"run/{LEASE_FILE}", dead.write(beat=3))
    with RunLease(tmp_path, origin=f"{bucket.url}/run", patience=0.0):
        owner = Owner.read(bucket.files("run")[LEASE_FILE])
        assert owner.process == os.getpid()
