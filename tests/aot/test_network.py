import itertools
from dataclasses import replace

import pytest

from jaxllm.aot.collectives import Collective
from jaxllm.aot.network import DCN_SECONDS, HOP_SECONDS, Network
from jaxllm.aot.topology import parse_topology

GATHER = Collective("all-gather", 2**30, (tuple(range(16)),), False, "1")


def network(name, *, slices=1):
    """The chips of a topology in the order of their coordinates."""
    topology = parse_topology(name, num_slices=slices)
    sizes = [range(size) for size in (*topology.shape, 1, 1)[:3]]
    places = [(*place, each) for each in range(slices) for place in itertools.product(*sizes)]
    return Network(topology, tuple(places))


def seconds(collective, *, on="v5e:4x4", efficiency=1.0, slices=1):
    return network(on, slices=slices).seconds(collective, efficiency=efficiency)


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "reduce-scatter", "all-to-all"])
def test_time_is_latency_and_bytes_over_bandwidth(kind):
    one = replace(GATHER, kind=kind)
    latency = seconds(replace(one, bytes=0))
    assert latency > 0
    once = seconds(one) - latency
    # Sums of a few floats: equal to rounding.
    assert seconds(replace(one, bytes=2**31)) - latency == pytest.approx(2 * once)
    assert seconds(one, efficiency=0.5) - latency == pytest.approx(2 * once)


def test_a_gather_on_a_plane_fills_both_links_of_a_corner():
    hops = 2 + 2
    expected = 15 / 16 * 2**30 / (2 * 50e9) + hops * HOP_SECONDS
    assert seconds(GATHER) == pytest.approx(expected)


def test_an_all_reduce_is_a_scatter_and_a_gather():
    halves = [seconds(replace(GATHER, kind=kind)) for kind in ("reduce-scatter", "all-gather")]
    assert seconds(replace(GATHER, kind="all-reduce")) == pytest.approx(sum(halves))


def test_a_closed_ring_is_twice_as_fast_as_a_line():
    row = replace(GATHER, groups=(tuple(range(16)),))
    # 16 chips in a row: on v5e:16x16 they close to a ring, of 32 a row on v5p:2x2x16 does not.
    line = replace(GATHER, groups=(tuple(range(0, 64, 4)),))
    free = HOP_SECONDS * 8
    ring = seconds(row, on="v5e:16x16") - free
    assert ring == pytest.approx(15 / 16 * 2**30 / (2 * 50e9))
    plain = network("v5p:16x2x2").seconds(line, efficiency=1.0) - free
    assert plain == pytest.approx(15 / 16 * 2**30 / 100e9)


def test_groups_with_gaps_share_their_links():
    dense = replace(GATHER, groups=((0, 1),))
    wide = replace(GATHER, groups=((0, 2), (1, 3)))
    assert seconds(wide) - HOP_SECONDS == pytest.approx(2 * (seconds(dense) - HOP_SECONDS))


def test_the_farthest_pair_of_a_permute_decides():
    near = replace(GATHER, kind="collective-permute", groups=((0, 1), (1, 2)))
    far = replace(near, groups=((0, 1), (0, 3)))
    assert seconds(far) == pytest.approx(3 * seconds(near))
    # Around the ring the last chip of a row is the first one's neighbour.
    last = replace(near, groups=((0, 15),))
    assert seconds(last, on="v5e:16x16") == pytest.approx(seconds(near, on="v5e:16x16"))


def test_between_slices_the_data_centre_network_decides():
    reduce = Collective("all-reduce", 2**30, (), True, "1")
    expected = DCN_SECONDS + 2 * (1 / 2) * 2**30 / 3.125e9
    assert seconds(reduce, slices=2) == pytest.approx(expected)
    across = replace(GATHER, kind="collective-permute", groups=((0, 16),))
    assert seconds(across, slices=2) > 5 * seconds(replace(across, groups=((0, 1),)), slices=2)


def test_one_device_exchanges_nothing():
    assert seconds(replace(GATHER, groups=((0,), (1,)))) == 0
