import math

import jax
import pytest

from jaxllm.optim.schedules import Constant, Cosine, Linear, WarmupStableDecay

PEAK, WARMUP, TOTAL = 0.4, 10, 110

SCHEDULES = {
    "constant": (Constant(warmup_steps=WARMUP), 1.0, 1.0, 1.0),
    # A fifth of the peak at the end; the middle of the decay is at step 60.
    "linear": (Linear(warmup_steps=WARMUP, final_fraction=0.2), 0.6, 0.2 + 0.8 / 100, 0.2),
    "cosine": (
        Cosine(warmup_steps=WARMUP, final_fraction=0.2),
        0.6,
        0.2 + 0.8 * (1 + math.cos(math.pi * 99 / 100)) / 2,
        0.2,
    ),
    # Stable to step 70, then 40 steps down.
    "wsd": (
        WarmupStableDecay(warmup_steps=WARMUP, decay_fraction=40 / 110, final_fraction=0.2),
        1.0,
        0.2 + 0.8 / 40,
        0.2,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_values(name):
    config, middle, last, past = SCHEDULES[name]
    schedule = config.build(PEAK, total_steps=TOTAL)
    expected = {
        0: 0.0,
        WARMUP // 2: 0.5,
        WARMUP: 1.0,
        60: middle,
        TOTAL - 1: last,
        TOTAL: past,
        10 * TOTAL: past,
    }
    for step, fraction in expected.items():
        # A few roundings of float32.
        assert float(schedule(step)) == pytest.approx(PEAK * fraction, rel=1e-5, abs=1e-8), step


@pytest.mark.parametrize("name", SCHEDULES)
def test_rises_then_never_rises_again_and_traces(name):
    config = SCHEDULES[name][0]
    schedule = jax.jit(jax.vmap(config.build(PEAK, total_steps=TOTAL)))
    rates = schedule(jax.numpy.arange(2 * TOTAL))
    assert (rates[1 : WARMUP + 1] > rates[:WARMUP]).all()
    # One rounding of float32 at the peak is allowed for.
    assert (rates[WARMUP + 1 :] <= rates[WARMUP:-1] + 1e-7 * PEAK).all()


@pytest.mark.parametrize("config", [Constant(), Linear(), Cosine(), WarmupStableDecay()])
def test_without_warmup_the_first_step_has_the_peak(config):
    # The peak as float32.
    assert float(config.build(PEAK, total_steps=TOTAL)(0)) == pytest.approx(PEAK, rel=1e-6)


def test_stable_phase_of_wsd():
    schedule = SCHEDULES["wsd"][0].build(PEAK, total_steps=TOTAL)
    assert float(schedule(70)) == pytest.approx(PEAK, rel=1e-6)
    # A quarter of the way down.
    assert float(schedule(80)) == pytest.approx(0.8 * PEAK, rel=1e-5)


def test_the_rate_does_not_depend_on_the_length_where_it_says_so():
    short, long = (Constant(warmup_steps=3).build(PEAK, total_steps=n) for n in (5, 500))
    assert [float(short(s)) for s in range(5)] == [float(long(s)) for s in range(5)]
    assert not Constant.depends_on_total_steps


@pytest.mark.parametrize("type_", [Constant, Linear, Cosine, WarmupStableDecay])
def test_warmup_must_end_before_the_run(type_):
    with pytest.raises(ValueError, match=r"optim\.schedule\.warmup_steps is 20.*0 to 19"):
        type_(warmup_steps=20).build(PEAK, total_steps=20)


def test_warmup_and_decay_must_fit():
    config = WarmupStableDecay(warmup_steps=60, decay_fraction=0.5)
    with pytest.raises(ValueError, match=r"warmup_steps is 60.*decay_fraction.*50 steps more"):
        config.build(PEAK, total_steps=100)
    config.build(PEAK, total_steps=120)
