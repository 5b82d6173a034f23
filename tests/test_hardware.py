import math

import pytest

from jaxllm.hardware import CHIPS, TPUS, find_chip


@pytest.mark.parametrize(
    ("device_kind", "name", "peak_flops"),
    [
        ("TPU v4", "v4", 275e12),
        ("TPU v5 lite", "v5e", 197e12),
        ("TPU v5e", "v5e", 197e12),
        ("TPU v5", "v5p", 459e12),
        ("TPU v5p", "v5p", 459e12),
        ("TPU v6 lite", "v6e", 918e12),
        ("TPU7x", "tpu7x", 1153.5e12),
        ("NVIDIA A100-SXM4-80GB", "A100", 312e12),
        ("NVIDIA H100 80GB HBM3", "H100", 989e12),
        ("NVIDIA H200", "H200", 989e12),
    ],
)
def test_chips_by_what_jax_calls_them(device_kind, name, peak_flops):
    chip = find_chip(device_kind)
    assert (chip.name, chip.peak_flops) == (name, peak_flops)


@pytest.mark.parametrize("device_kind", ["cpu", "TPU v3", "NVIDIA GeForce RTX 4090"])
def test_a_chip_without_a_known_peak(device_kind):
    assert find_chip(device_kind) is None


def test_no_name_hides_a_longer_one():
    names = list(CHIPS)
    for index, name in enumerate(names):
        assert not any(name.startswith(earlier) for earlier in names[:index]), name


@pytest.mark.parametrize("tpu", TPUS.values(), ids=lambda tpu: tpu.name)
def test_what_a_tpu_can_do_agrees_with_its_chip(tpu):
    (chip,) = {chip for chip in CHIPS.values() if chip.name == tpu.name}
    assert tpu.hbm_limit_gib < chip.memory_gib * 1.01  # the compiler keeps a little back
    # Matrix units begin a power of two of multiplications a cycle, to the digits of the rates.
    products = chip.peak_flops / tpu.clock_hz
    assert products == pytest.approx(2 ** round(math.log2(products)), rel=2e-3)


@pytest.mark.parametrize(
    ("pod", "chips"), [("v4-8", 4), ("v5p-16", 8), ("v5e-16", 16), ("v6e-256", 256), ("tpu7x-8", 4)]
)
def test_pod_names_count_cores_or_chips(pod, chips):
    shape = TPUS[pod.partition("-")[0]].pods[pod]
    assert math.prod(map(int, shape.split("x"))) == chips
