import itertools

import jax
import numpy as np
import pytest

from jaxllm.aot.topology import parse_topology, topology_devices
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import batch_sharding, dealt_out, global_batch, host_rows
from jaxllm.parallel.zigzag import zigzag_order

ROWS = 16


class SeenFromHost:
    """A layout as a process sees it whose devices are some of the mesh's."""

    def __init__(self, layout, devices):
        self.layout, self.devices = layout, set(devices)

    def sharding(self, axes):
        return self._Sharding(self.layout.sharding(axes), self.devices)

    class _Sharding:
        def __init__(self, sharding, devices):
            self.sharding, self.devices = sharding, devices

        def addressable_devices_indices_map(self, shape):
            everywhere = self.sharding.devices_indices_map(shape)
            return {device: everywhere[device] for device in self.devices}


def rows_by_host(config, num_hosts):
    devices = jax.devices()
    per_host = len(devices) // num_hosts
    layout = config.build()
    return [
        host_rows(SeenFromHost(layout, devices[host * per_host : (host + 1) * per_host]), ROWS)
        for host in range(num_hosts)
    ]


@pytest.mark.parametrize("num_hosts", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "config",
    [
        ParallelConfig(layout="data"),
        ParallelConfig(layout="fsdp"),
        ParallelConfig(layout="fsdp", data=2),
    ],
)
def test_hosts_share_the_rows_out_in_order(config, num_hosts):
    blocks = rows_by_host(config, num_hosts)
    size = ROWS // num_hosts
    assert blocks == [tuple(range(host * size, (host + 1) * size)) for host in range(num_hosts)]


def test_hosts_that_hold_the_same_rows_feed_the_same_rows():
    """A tensor axis over four devices spans two hosts of two; both read its rows."""
    blocks = rows_by_host(ParallelConfig(layout="fsdp", tensor=4), 4)
    low, high = tuple(range(8)), tuple(range(8, 16))
    assert blocks == [low, low, high, high]
    assert rows_by_host(ParallelConfig(layout="replicated"), 4) == [tuple(range(ROWS))] * 4


def test_devices_of_a_host_need_not_be_neighbours_in_the_mesh():
    layout, devices = ParallelConfig(layout="data").build(), jax.devices()
    assert host_rows(SeenFromHost(layout, [devices[0], devices[2]]), ROWS) == (0, 1, 4, 5)


@pytest.mark.libtpu
def test_a_host_on_a_torus_feeds_the_rows_of_its_own_chips():
    """On a plane of 4 x 4 the ring of a mesh axis passes each host's chips in two places."""
    devices = topology_devices(parse_topology("v5e:4x4"))
    layout = ParallelConfig(layout="fsdp").build(devices)
    hosts = {device.process_index for device in devices}
    rows = [
        host_rows(SeenFromHost(layout, [d for d in devices if d.process_index == host]), 16)
        for host in hosts
    ]
    assert sorted(itertools.chain(*rows)) == list(range(16))
    assert any(block != tuple(range(block[0], block[-1] + 1)) for block in rows)


@pytest.mark.parametrize(
    "config", [ParallelConfig(layout="fsdp"), ParallelConfig(layout="fsdp", tensor=2)]
)
def test_a_global_batch_holds_every_row_once(config):
    layout = config.build()
    tokens = np.arange(ROWS * 3, dtype=np.int32).reshape(ROWS, 3)
    fields = {"tokens": tokens, "example_index": np.arange(ROWS, dtype=np.uint32)}
    batch = global_batch(layout, fields, rows=ROWS)
    assert host_rows(layout, ROWS) == tuple(range(ROWS))
    for name, field in fields.items():
        np.testing.assert_array_equal(batch[name], field)
        assert batch[name].dtype == field.dtype
        assert batch[name].sharding == batch_sharding(layout, field.ndim)
        pieces = batch[name].addressable_shards
        assert {piece.data.shape[0] for piece in pieces} == {ROWS // layout.degree("batch")}
        for piece in pieces:
            np.testing.assert_array_equal(piece.data, field[piece.index])


def test_positions_are_dealt_out_with_their_rows():
    field = np.arange(2 * 16).reshape(2, 16)
    layout = ParallelConfig(data=2, context=4).build()
    dealt = jax.jit(lambda x: dealt_out(layout, x))(field)
    np.testing.assert_array_equal(dealt, field[:, zigzag_order(16, 4)])
    # The first shard holds the first and the last stretch of two positions.
    np.testing.assert_array_equal(dealt[0, :4], [0, 1, 14, 15])
    assert dealt.sharding.shard_shape(field.shape) == (1, 4)
    ulysses = ParallelConfig(context=4, context_attention="ulysses").build()
    for natural in (None, ParallelConfig().build(), ulysses):
        assert dealt_out(natural, field) is field
