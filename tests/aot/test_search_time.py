import itertools

import numpy as np
import pytest
from searches import llama2_7b

from jaxllm.aot.collectives import Collective
from jaxllm.aot.cost import EXPECTED
from jaxllm.aot.network import Network
from jaxllm.aot.search_links import Links
from jaxllm.aot.search_space import Candidate
from jaxllm.aot.search_time import estimate_time, owner
from jaxllm.aot.topology import parse_topology, topology_devices
from jaxllm.parallel.mesh import ParallelConfig, make_mesh

FSDP_16 = ParallelConfig(fsdp=16)


# Steps as predicted from compiled programs (libtpu 0.0.50.1), in seconds by kind.
@pytest.mark.parametrize(
    ("topology", "devices", "rows", "seconds", "matmul"),
    [("v5e:4x4", 16, 64, 3.21, 2.49), ("v5p:2x2x2", 8, 32, 1.54, 1.17)],
)
def test_compiled_steps_are_estimated(topology, devices, rows, seconds, matmul):
    workload = llama2_7b(f"data.global_batch_size={rows}")
    candidate = Candidate(ParallelConfig(fsdp=devices), "full", "none", 1)
    estimate = estimate_time(workload, candidate, parse_topology(topology))
    assert estimate.lower < seconds
    # Good enough to put candidates in order; what is compiled corrects it.
    assert sum(estimate.parts.values()) == pytest.approx(seconds, rel=0.15)
    assert estimate.parts["matmul"] == pytest.approx(matmul, rel=0.15)


def test_what_is_kept_is_not_computed_again():
    workload, topology = llama2_7b(), parse_topology("v6e:4x4")
    policies = ("full", "qkv", "qkv_mlp", "matmuls")
    estimates = [
        estimate_time(workload, Candidate(FSDP_16, policy, "none", 1), topology)
        for policy in policies
    ]
    for more, less in itertools.pairwise(estimates):
        assert less.parts["matmul"] < more.parts["matmul"]
        assert less.lower < more.lower
    # The model's own FLOPs, two products of the attention, and nothing twice.
    model = workload.flops / 16 / 918e12
    assert estimates[-1].lower == pytest.approx(model, rel=0.05)  # causal halves, diagonal blocks


@pytest.mark.parametrize(
    ("parallel", "exchanges"),
    [
        (FSDP_16, {"fsdp"}),
        (ParallelConfig(data=16, fsdp=1), {"data"}),
        (ParallelConfig(fsdp=1, tensor=16), {"tensor"}),
        (ParallelConfig(fsdp=8, tensor=2), {"fsdp", "tensor"}),
        (ParallelConfig(fsdp=2, context=8), {"fsdp", "context"}),
        (ParallelConfig(fsdp=4, stage=4), {"fsdp", "stage"}),
    ],
)
def test_only_axes_of_several_devices_exchange(parallel, exchanges):
    workload = llama2_7b()
    estimate = estimate_time(
        workload, Candidate(parallel, "full", "none", 1), parse_topology("v5e:4x4")
    )
    compute = {"matmul", "pallas", "vector", "copy"}
    assert {part for part, spent in estimate.parts.items() if spent} - compute == exchanges


def test_an_exchange_over_several_axes_belongs_to_one():
    assert owner(("data", "fsdp")) == owner(("fsdp", "context")) == "fsdp"
    assert owner(("tensor",)) == "tensor"
    assert owner(()) == "fsdp"


@pytest.mark.libtpu
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("v5e:4x4", {"fsdp": 16}),
        ("v5e:16x16", {"fsdp": 16, "tensor": 16}),
        ("v5p:2x2x4", {"fsdp": 4, "tensor": 4}),
        ("v5p:4x4x4", {"fsdp": 16, "tensor": 4}),
        ("v5p:4x4x4", {"fsdp": 64}),
    ],
)
def test_links_carry_what_those_of_the_devices_carry(name, sizes):
    """Where axes are whole dimensions, the arithmetic is that of the replay of a program."""
    topology = parse_topology(name)
    devices = topology_devices(topology)
    mesh = make_mesh(sizes, devices)
    network = Network.of(topology, list(mesh.devices.flat))
    links = Links.of(topology, sizes)
    ids = np.arange(len(devices)).reshape(tuple(sizes.values()))
    for dim, axis in enumerate(sizes):
        groups = np.moveaxis(ids, dim, -1).reshape(-1, sizes[axis])
        gather = Collective(
            key="gather",
            kind="all-gather",
            bytes=2**30,
            groups=tuple(map(tuple, groups.tolist())),
            crosses_slices=False,
        )
        expected = network.seconds(gather, efficiency=EXPECTED.link)
        assert links.gather(2**30, axis) == pytest.approx(expected, rel=0.01)
