"""Silent corruption: whether devices that must hold the same bits do, and steps repeat themselves.

A chip, its memory or a link can flip a bit without a word, and every device that holds a copy then
trains a model of its own (arXiv:2102.11245). Hashes of all arrays, one for each device, are cheap:
every byte is read once.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxllm.nn.param import num_bytes

_SHOWN = 12  # lines of an error
_UINTS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


class Odd(NamedTuple):
    """An array of which a device holds other bits than it should."""

    path: str
    device: jax.Device

    def __str__(self) -> str:
        return f"{self.path} on {self.device} of process {self.device.process_index}"


class ReplicaMismatch(RuntimeError):
    """Devices that must hold the same part of the state hold different bits."""

    def __init__(self, step: int, odd: list[Odd]) -> None:
        super().__init__(
            f"after step {step} devices hold different bits where they must hold the same, so one "
            f"of them, or a link, computes or stores wrongly:\n{_lines(odd)}\n"
            "The newest checkpoint was saved before this was found. Take the host named here out, "
            "then run the same command again"
        )
        self.odd = odd


class StepMismatch(RuntimeError):
    """The same step from the same state gave different bits."""

    def __init__(self, step: int, odd: list[Odd]) -> None:
        super().__init__(
            f"step {step}, computed twice from the same state, gave different bits:\n"
            f"{_lines(odd)}\n"
            "A device computes wrongly, or the program does not repeat itself (on a GPU: unless "
            "xla_flags has xla_gpu_deterministic_ops=true). Take the host named here out, then "
            "run the same command again, or set training.repeat_check_every=null"
        )
        self.odd = odd


class StateHash:
    """A hash of each array on each device of a mesh, agreed on all processes.

    Every array must be laid out by a NamedSharding of one mesh, in device or in host memory.
    """

    def __init__(self, abstract: Any) -> None:
        """abstract: the tree, as arrays or as shapes with their shardings."""
        self._leaves = [
            (jax.tree_util.keystr(path, simple=True, separator="."), leaf.shape, leaf.sharding)
            for path, leaf in jax.tree.leaves_with_path(abstract)
        ]
        self._sizes = [num_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)]
        shardings = [sharding for _, _, sharding in self._leaves]
        mesh = shardings[0].mesh
        assert all(sharding.mesh == mesh for sharding in shardings)
        self._devices = list(mesh.devices.flat)
        self._hash = _hasher(mesh, [sharding.spec for sharding in shardings])

    def __call__(self, tree: Any) -> jax.Array:
        """uint32 (devices, arrays), whole on every device."""
        return self._hash(jax.tree.leaves(tree))

    def compared_share(self) -> float:
        """The share of all bytes of which several devices hold a copy."""
        copied = whole = 0
        for size, (_, shape, sharding) in zip(self._sizes, self._leaves, strict=True):
            whole += size
            copied += size * any(_same_shards(self._devices, sharding, shape))
        return copied / whole

    def odd_replicas(self, hashes: np.ndarray) -> list[Odd]:
        """The devices that differ from most of those that must hold the same shard as they do.

        Where no value has a majority, as of two, all of them.
        """
        return [
            Odd(path, self._devices[row])
            for column, (path, shape, sharding) in enumerate(self._leaves)
            for group in _same_shards(self._devices, sharding, shape)
            for row in _outvoted(group, hashes[:, column])
        ]

    def differences(self, first: np.ndarray, second: np.ndarray) -> list[Odd]:
        """The arrays, with their devices, whose hashes differ."""
        return [
            Odd(self._leaves[column][0], self._devices[row])
            for column, row in np.argwhere((first != second).T)
        ]


class ReplicaCheck:
    """Compares what devices hold more than once: whole arrays, or the same shards of them."""

    def __init__(self, abstract_state: Any) -> None:
        self._hash = StateHash(abstract_state)
        self.share = self._hash.compared_share()

    def __call__(self, step: int, state: Any) -> None:
        """ReplicaMismatch, on every process, unless all copies are the same bit for bit.

        All processes call it together; it waits for the step to finish.
        """
        odd = self._hash.odd_replicas(jax.device_get(self._hash(state)))
        if odd:
            raise ReplicaMismatch(step, odd)


class RepeatedStep:
    """Computes a step twice and compares all that comes out."""

    def __init__(self, abstract_state: Any) -> None:
        # The copy waits on the host: two states beside a step may not fit into a device.
        here = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
        away = jax.tree.map(lambda sharding: sharding.with_memory_kind("pinned_host"), here)
        self._away = partial(jax.device_put, device=away, may_alias=False)
        self._here = partial(jax.device_put, device=here, may_alias=False)
        self._hash: StateHash | None = None

    def __call__(
        self, step: int, compiled: Callable, state: Any, batch: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        """(state, metrics) of `compiled(state, batch)`, which takes `state` over.

        StepMismatch, on every process, unless both times gave the same bits. All processes call
        it together; it waits for both.
        """
        copy = jax.block_until_ready(self._away(state))
        state, metrics = compiled(state, batch)
        if self._hash is None:
            self._hash = StateHash({"state": state, "metrics": metrics})
        first = jax.device_get(self._hash({"state": state, "metrics": metrics}))
        del state, metrics  # nothing else holds them, and the second time needs their memory
        state, metrics = compiled(self._here(copy), batch)
        second = jax.device_get(self._hash({"state": state, "metrics": metrics}))
        odd = self._hash.differences(first, second)
        if odd:
            raise StepMismatch(step, odd)
        return state, metrics


def _hasher(mesh: Mesh, specs: list[PartitionSpec]) -> Callable:
    """Arrays -> uint32 (devices, arrays), whole on every device."""

    def of_device(*shards: jax.Array) -> jax.Array:
        return jnp.stack([hash_bits(shard) for shard in shards])[None]

    every_axis = PartitionSpec(mesh.axis_names)
    hash_shards = jax.shard_map(
        of_device, mesh=mesh, in_specs=tuple(specs), out_specs=every_axis, check_vma=False
    )

    def hash_all(arrays: list[jax.Array]) -> jax.Array:
        return hash_shards(*jax.device_put(arrays, jax.memory.Space.Device))

    return jax.jit(hash_all, out_shardings=NamedSharding(mesh, PartitionSpec()))


def hash_bits(x: jax.Array) -> jax.Array:
    """uint32 of the bits of an array and where each stands; any one changed element changes it.

    Each element, joined with its position, goes through MurmurHash3's finaliser, which maps no two
    values to one; the sum, modulo 2^32, may be taken in any order.
    """
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    x = x.astype(jnp.int8) if x.dtype == jnp.int4 else x  # two of them are a byte
    assert x.dtype.itemsize in _UINTS, x.dtype
    bits = jax.lax.bitcast_convert_type(x, _UINTS[x.dtype.itemsize]).astype(jnp.uint32)
    position, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for dim in reversed(range(x.ndim)):
        steps = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
        position += steps * np.uint32(stride & 0xFFFFFFFF)
        stride *= x.shape[dim]
    mixed = bits ^ (position * np.uint32(0x9E3779B9))
    mixed = (mixed ^ (mixed >> 16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ (mixed >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _same_shards(
    devices: list[jax.Device], sharding: NamedSharding, shape: tuple[int, ...]
) -> Iterator[list[int]]:
    """Groups of several devices, by their places in `devices`, that hold the same part."""
    parts = sharding.devices_indices_map(shape)
    groups = defaultdict(list)
    for row, device in enumerate(devices):
        groups[tuple((part.start, part.stop) for part in parts[device])].append(row)
    return (group for group in groups.values() if len(group) > 1)


def _outvoted(group: list[int], hashes: np.ndarray) -> list[int]:
    counts = Counter(int(hashes[row]) for row in group)
    value, votes = counts.most_common(1)[0]
    if 2 * votes <= len(group):
        return group
    return [row for row in group if hashes[row] != value]


def _lines(odd: list[Odd]) -> str:
    more = [f"  ... and {len(odd) - _SHOWN} more"] if len(odd) > _SHOWN else []
    return "\n".join([*(f"  {each}" for each in odd[:_SHOWN]), *more])
