"""One flipped bit on one device is found and named; what is equal is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxllm.training.checks import StepChecks
from jaxllm.training.replicas import (
    RepeatedStep,
    ReplicaCheck,
    ReplicaMismatch,
    StateHash,
    StepMismatch,
    hash_bits,
)

MESH = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
WHOLE, CUT, IN_ROWS = PartitionSpec(), PartitionSpec("data", "fsdp"), PartitionSpec(None, "fsdp")
SPECS = {"whole": WHOLE, "cut": CUT, "in_rows": IN_ROWS, "half": IN_ROWS, "count": WHOLE}
VALUES = {
    "whole": np.arange(24, dtype=np.float32).reshape(4, 6),
    "cut": np.arange(32, dtype=np.float32).reshape(8, 4),
    "in_rows": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "half": np.ones((2, 8), jnp.bfloat16),
    "count": np.int32(7),
}


def make(name, *, flipped=(), spec=None, kind="device"):
    """An array of which the devices `flipped`, by number, hold one with a bit changed."""
    value = VALUES[name]
    sharding = NamedSharding(MESH, SPECS[name] if spec is None else spec, memory_kind=kind)
    pieces = []
    for device, index in sharding.addressable_devices_indices_map(value.shape).items():
        piece = np.array(value[index])
        if device.id in flipped:
            piece.reshape(-1).view(np.uint8)[-1] ^= 0x40
        at = jax.sharding.SingleDeviceSharding(device, memory_kind=kind)
        pieces.append(jax.device_put(piece, at))
    return jax.make_array_from_single_device_arrays(value.shape, sharding, pieces)


def tree(**changed):
    return {"weights": {name: changed.get(name, make(name)) for name in VALUES}}


@pytest.fixture(scope="module")
def check():
    return ReplicaCheck(tree())


def found(check, state):
    with pytest.raises(ReplicaMismatch) as caught:
        check(40, state)
    assert "after step 40" in str(caught.value)
    return caught.value


def test_a_clean_state_passes(check):
    with jax.transfer_guard("disallow"):
        check(1, tree())


def test_a_flipped_bit_of_a_copy_is_found_and_named(check):
    error = found(check, tree(whole=make("whole", flipped=[5])))
    assert [(odd.path, odd.device.id) for odd in error.odd] == [("weights.whole", 5)]
    assert f"weights.whole on {jax.devices()[5]} of process 0" in str(error)
    error = found(check, tree(count=make("count", flipped=[0, 3])))
    assert [odd.device.id for odd in error.odd] == [0, 3]


@pytest.mark.parametrize("name", ["in_rows", "half"])
def test_a_shard_is_compared_with_its_own_copies(check, name):
    """Devices 0, 2, 4 and 6 hold the left half, the others the right one."""
    error = found(check, tree(**{name: make(name, flipped=[3])}))
    assert [(odd.path, odd.device.id) for odd in error.odd] == [(f"weights.{name}", 3)]
    # Two against two: nobody knows which are right.
    error = found(check, tree(**{name: make(name, flipped=[2, 6])}))
    assert [odd.device.id for odd in error.odd] == [0, 2, 4, 6]


def test_of_two_copies_both_are_named():
    spec = PartitionSpec("data")
    error = found(
        ReplicaCheck({"a": make("whole", spec=spec)}), {"a": make("whole", spec=spec, flipped=[4])}
    )
    assert [odd.device.id for odd in error.odd] == [4, 5]


def test_what_one_device_holds_alone_cannot_be_compared(check):
    check(1, tree(cut=make("cut", flipped=[3])))


def test_arrays_in_host_memory(check):
    clean, bad = (make("in_rows", kind="pinned_host", flipped=flipped) for flipped in ([], [1]))
    assert clean.sharding.memory_kind == "pinned_host"
    check = ReplicaCheck({"moments": clean})
    check(1, {"moments": clean})
    assert [odd.device.id for odd in found(check, {"moments": bad}).odd] == [1]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.int8, np.bool_])
def test_a_hash_sees_every_bit_and_every_place(dtype):
    x = np.arange(6).reshape(2, 3).astype(dtype)
    seen = {int(hash_bits(jnp.asarray(x)))}
    bits = [0] if dtype == np.bool_ else range(8 * x.dtype.itemsize)
    for place in range(6):
        for bit in bits:
            other = x.copy()
            raw = other.reshape(-1).view(np.uint8)
            raw[place * x.dtype.itemsize + bit // 8] ^= 1 << bit % 8
            seen.add(int(hash_bits(jnp.asarray(other))))
    assert len(seen) == 1 + 6 * len(bits)
    if dtype == np.float32:
        assert int(hash_bits(jnp.asarray(x[:, ::-1]))) not in seen
        assert hash_bits(jnp.float32(0.0)) != hash_bits(jnp.float32(-0.0))


def one_step(state, batch):
    moved = jax.tree.map(lambda x: x + batch.astype(x.dtype), state)
    return moved, {"loss": jnp.sum(state["weights"]["cut"])}


def test_a_step_that_repeats_itself_gives_what_it_gives_once():
    state, batch = tree(), jax.device_put(jnp.float32(3.0), NamedSharding(MESH, WHOLE))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    out = (shardings, NamedSharding(MESH, WHOLE))
    jitted = jax.jit(one_step, donate_argnums=0, out_shardings=out)
    compiled = jitted.lower(state, batch).compile()
    expected = jax.device_get(compiled(tree(), batch))
    twice = RepeatedStep(state)
    for at in (1, 2):
        with jax.transfer_guard("disallow"):
            result = twice(at, compiled, tree(), batch)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(result), expected)
    assert jax.tree.map(lambda leaf: leaf.sharding, result[0]) == shardings

    calls = []

    def faulty(state, batch):
        moved, metrics = compiled(state, batch)
        calls.append(at)
        if len(calls) == 2:
            moved["weights"]["cut"] = make("cut", flipped=[6])
            metrics = {"loss": metrics["loss"] + 0}
        elif len(calls) == 1:
            moved["weights"]["cut"] = make("cut")
        return moved, metrics

    with pytest.raises(StepMismatch, match="step 9, computed twice") as caught:
        twice(9, faulty, tree(), batch)
    assert [(odd.path, odd.device.id) for odd in caught.value.odd] == [("state.weights.cut", 6)]


def test_the_share_of_the_state_that_has_copies():
    sizes = {name: value.size * value.dtype.itemsize for name, value in VALUES.items()}
    expected = 1 - sizes["cut"] / sum(sizes.values())
    assert StateHash(tree()).compared_share() == pytest.approx(expected, rel=1e-12)  # one division
    said = []
    StepChecks(tree(), replicas_every=5, repeat_every=None, say=said.append)
    assert said[0].startswith(f"training.replica_check_every sees {expected:.1%} of the state")
    StepChecks({"whole": make("whole")}, replicas_every=5, repeat_every=None, say=said.append)
    assert len(said) == 1
