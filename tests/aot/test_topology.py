import importlib.util

import pytest

from jaxllm.aot.topology import list_topologies, parse_topology, topology_devices
from jaxllm.hardware import TPUS


@pytest.mark.parametrize(
    ("text", "name", "chips"),
    [
        ("v5p:2x2x4", "v5p:2x2x4", 16),
        ("v4-16", "v4:2x2x2", 8),
        ("v5p-16", "v5p:2x2x2", 8),
        ("v5p-512", "v5p:4x8x8", 256),
        ("v5e-16", "v5e:4x4", 16),
        ("v5litepod-16", "v5e:4x4", 16),
        ("V6E-256", "v6e:16x16", 256),
        ("tpu7x-128", "tpu7x:4x4x4", 64),
        ("v5p:4x4x12", "v5p:4x4x12", 192),
    ],
)
def test_slices_and_pods_by_name(text, name, chips):
    topology = parse_topology(text)
    size = 1
    for length in topology.shape:
        size *= length
    assert (topology.name, size) == (name, chips)


@pytest.mark.parametrize("tpu", TPUS.values(), ids=lambda tpu: tpu.name)
def test_every_published_name_is_read_back(tpu):
    assert len(tpu.pods) == len(tpu.slices)  # no two slices share a name
    for pod, shape in tpu.pods.items():
        assert parse_topology(pod).name == parse_topology(f"{tpu.name}:{shape}").name
        assert f"{tpu.name}:{shape} ({pod})" in list_topologies()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9-16", r"unknown topology 'v9-16'; known are\n  v4:2x2x1 \(v4-8\)"),
        ("", r"unknown topology ''; known are\n  v4"),
        ("v5p-17", r"unknown topology 'v5p-17'; known are\n  v5p:2x2x1 \(v5p-8\).*\nor another"),
        ("v5e:0x4", r"unknown topology 'v5e:0x4'; known are\n  v5e:1x1"),
        ("v5e:2x2x2", "a v5e slice has 2 dimensions"),
    ],
)
def test_an_unknown_topology_lists_what_there_is(text, said):
    with pytest.raises(ValueError, match=said):
        parse_topology(text)


def test_at_least_one_slice():
    with pytest.raises(ValueError, match="--slices 0"):
        parse_topology("v5e:4x4", num_slices=0)


@pytest.mark.parametrize(
    ("name", "closed"),
    [
        ("v5e:16x16", (True, True, False)),
        ("v5e:8x16", (False, True, False)),
        ("v5e:4x4", (False, False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),
    ],
)
def test_which_dimensions_close_to_a_ring(name, closed):
    assert parse_topology(name).is_ring == closed


def test_without_the_compiler_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "jaxllm\[aot\]"'):
        topology_devices(parse_topology("v5e:4x4"))


@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("name", "kind", "devices"),
    [
        ("v4:2x2x1", "TPU v4", 4),
        ("v5e:4x4", "TPU v5 lite", 16),
        ("v5p:2x2x2", "TPU v5", 8),
        ("v6e:2x2", "TPU v6 lite", 4),
        ("tpu7x:2x2x1", "TPU7x", 8),
    ],
)
def test_devices_that_compile_but_do_not_run(name, kind, devices):
    found = topology_devices(parse_topology(name))
    assert {device.device_kind for device in found} == {kind}
    assert len(found) == devices


@pytest.mark.libtpu
def test_several_slices():
    found = topology_devices(parse_topology("v5e:2x2", num_slices=3))
    assert [device.slice_index for device in found] == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.libtpu
def test_a_slice_that_the_compiler_refuses():
    with pytest.raises(ValueError, match=r"topology v5p:3x3x3: the TPU compiler refuses it: .*"):
        topology_devices(parse_topology("v5p:3x3x3"))
