from types import SimpleNamespace

import jax
import pytest

from jaxllm.hardware import Chip
from jaxllm.training import throughput
from jaxllm.training.throughput import Throughput, memory_bytes

CHIP = Chip("test", peak_flops=1e6, memory_gib=1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set, in seconds."""

    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def make(monkeypatch, chip=CHIP):
    monkeypatch.setattr(throughput, "find_chip", lambda device_kind: chip)
    return Throughput(tokens_per_step=800, flops_per_token=50.0)


def test_rates_and_mfu_by_hand(clock, monkeypatch):
    meter = make(monkeypatch)
    clock.now += 4
    figures = meter.read(10)
    assert figures["tokens_per_second"] == 10 * 800 / 4
    assert figures["tokens_per_second_per_device"] == 2000 / jax.device_count()
    assert figures["mfu"] == pytest.approx(2000 * 50 / (8 * 1e6), rel=1e-12)
    assert figures["data_wait_share"] == 0
    clock.now += 1
    assert meter.read(1)["tokens_per_second"] == 800


def test_no_mfu_without_a_known_peak(clock, monkeypatch):
    meter = make(monkeypatch, chip=None)
    clock.now += 1
    assert "mfu" not in meter.read(1)


def test_waiting_for_data_is_counted_and_work_is_not(clock, monkeypatch):
    meter = make(monkeypatch)

    def slow_batches():
        for batch in range(3):
            clock.now += 0.5
            yield batch

    for _ in meter.timed(slow_batches()):
        clock.now += 1.5
    assert meter.read(3)["data_wait_share"] == pytest.approx(0.25, rel=1e-12)
    clock.now += 1
    assert meter.read(1)["data_wait_share"] == 0


def test_what_was_not_training_is_left_out(clock, monkeypatch):
    meter = make(monkeypatch)
    clock.now += 2
    meter.read(1)
    clock.now += 1000  # an evaluation
    meter.restart()
    clock.now += 2
    assert meter.read(1)["tokens_per_second"] == 400


def test_the_step_before_a_pause_is_no_faster_than_the_others(clock, monkeypatch):
    """Short steps are seen late, after the next dispatch; the one before a pause is waited for."""
    meter = make(monkeypatch)
    begin, speeds = clock.now, []
    for step in range(1, 101):
        late = 0.0 if step % 50 == 0 else 0.009
        clock.now = begin + 0.01 * step + late
        speeds.append(meter.read(1)["tokens_per_second"])
        if not late:
            clock.now = begin = begin + 1000  # an evaluation
            begin -= 0.01 * step
            meter.restart()
    assert meter.training_seconds == pytest.approx(1.0, rel=1e-9)
    for speed in (speeds[48], speeds[49], speeds[50], speeds[98], speeds[99]):
        assert speed == pytest.approx(80_000, rel=0.03)


def test_the_first_steps_are_counted_by_themselves(clock, monkeypatch):
    """They wake the machine up; of the later ones there are not enough yet for a window."""
    meter = make(monkeypatch)
    clock.now += 0.3
    assert meter.read(1)["tokens_per_second"] == pytest.approx(800 / 0.3)
    for _ in range(2):
        clock.now += 0.01
        assert meter.read(1)["tokens_per_second"] == pytest.approx(80_000)


def test_steps_that_are_long_enough_are_timed_one_by_one(clock, monkeypatch):
    meter = make(monkeypatch)
    for seconds in (2, 0.6, 5, 0.5, 1):
        clock.now += seconds
        assert meter.read(1)["tokens_per_second"] == pytest.approx(800 / seconds)


def test_memory_in_use_is_known_everywhere():
    assert memory_bytes() > 10 * 2**20  # this process has JAX in it
