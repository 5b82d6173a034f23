import pytest

from jaxllm.hardware import CHIPS, find_chip


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
