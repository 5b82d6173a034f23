"""Losses that would harm a run, and a device that holds other bits than the rest."""

import json
import math

import jax
import numpy as np
import pytest
from commands import poison, runs

from jaxllm.commands.rollback import read_rollbacks
from jaxllm.training.checks import StepChecks

from . import chaos

pytestmark = pytest.mark.faults

OFTEN = ("checkpoints.every=4", "checkpoints.keep_latest=9")
ENOUGH = "training.steps=36"  # so many that losses are judged by their mean
BAD = {"NaN": math.nan, "Inf": math.inf, "100 times the loss": 100.0}


def skipped(run_dir):
    """The batches of skipped.jsonl."""
    return [
        json.loads(line)["batch"] for line in (run_dir / "skipped.jsonl").read_text().splitlines()
    ]


def state_of(run_dir, step):
    """Every array of a checkpoint but the counters of steps and of what was skipped."""
    arrays = runs.arrays(run_dir, step)
    return {path: a for path, a in arrays.items() if "guard" not in path and "step" not in path}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_step_leaves_the_state_as_it_was(ids, tmp_path, monkeypatch, experiment, kind):
    experiment.done = f"a step of {kind}: skipped, the state unchanged bit for bit"
    bad = (24, 27, 30)
    poison.batches(monkeypatch, dict.fromkeys(bad, BAD[kind]))
    every = ("checkpoints.every=1", "checkpoints.keep_latest=99")
    assert runs.start(ids, tmp_path / "run", *every, "training.steps=32") == 0
    assert skipped(tmp_path / "run") == list(bad)
    for batch in bad:
        experiment.tries += 1
        before, after = state_of(tmp_path / "run", batch), state_of(tmp_path / "run", batch + 1)
        changed = [path for path in before if before[path].tobytes() != after[path].tobytes()]
        experiment.bytes_lost += sum(before[path].nbytes for path in changed)
        assert changed == []


def test_many_in_a_row_take_the_run_back(ids, tmp_path, monkeypatch, experiment):
    """What was left out stays out after it, and later saves land and can be restored."""
    experiment.done = "bad steps in a row: back to before them, their batches left out"
    poison.batches(monkeypatch, dict.fromkeys(range(24, 30), math.nan))
    run_dir = tmp_path / "run"
    assert runs.start(ids, run_dir, *OFTEN, ENOUGH, "training.anomalies={patience: 6}") == 0
    (rollback,) = read_rollbacks(run_dir)
    experiment.tries += 6
    experiment.lost(rollback.from_step - rollback.to_step)
    assert set(range(24, 30)) <= set(rollback.batches)
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, 37))
    assert all(math.isfinite(loss) for _, loss in runs.losses(run_dir))
    assert runs.checkpoints(run_dir)[-1] == 36
    more = ("training.steps=38", "training.anomalies={patience: 6}")
    assert runs.start(ids, run_dir, *OFTEN, *more) == 0
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, 39))


FLIPPED_AT = 5


def flipped(state, *, device):
    """The state with one bit of the first whole weight changed, in the copy of one device."""
    leaves, tree = jax.tree.flatten(state.params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.params)]
    chosen = next(n for n, leaf in enumerate(leaves) if leaf.sharding.is_fully_replicated)
    pieces = []
    for shard in leaves[chosen].addressable_shards:
        piece = np.array(shard.data)
        if shard.device.id == device:
            piece.reshape(-1).view(np.uint8)[0] ^= 1
        pieces.append(jax.device_put(piece, shard.device))
    leaf = leaves[chosen]
    leaves[chosen] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, pieces)
    return state._replace(params=jax.tree.unflatten(tree, leaves)), paths[chosen]


@pytest.mark.parametrize("device", [0, 5])
def test_a_flipped_bit_of_one_replica_is_found_and_named(
    ids, tmp_path, monkeypatch, experiment, device
):
    experiment.done = f"a bit of a weight flipped on device {device} of 8: found, and named"
    compute, where = StepChecks.compute, []

    def compute_and_flip(self, step, compiled, state, batch):
        state, metrics = compute(self, step, compiled, state, batch)
        if step == FLIPPED_AT:
            with jax.transfer_guard("allow"):
                state, path = flipped(state, device=device)
            where.append(path)
        return state, metrics

    monkeypatch.setattr(StepChecks, "compute", compute_and_flip)
    experiment.tries += 1
    with pytest.raises(RuntimeError, match="devices hold different bits") as found:
        runs.start(
            ids, tmp_path / "run", "training.replica_check_every=2", "parallel.layout=replicated"
        )
    assert "after step 6" in str(found.value)
    name = where[0].replace("['", ".").replace("']", "")
    named = [line for line in str(found.value).splitlines() if " of process 0" in line]
    assert any(name.lstrip(".") in line.replace(" ", "") for line in named), named
    assert all(f"{jax.devices()[device]} of process 0" in line for line in named), named


def test_checks_of_sound_arithmetic_change_nothing(ids, uninterrupted, tmp_path, experiment):
    experiment.done = "every step computed twice and every copy compared: all the same"
    run_dir = tmp_path / "run"
    checks = ("training.repeat_check_every=1", "training.replica_check_every=1")
    experiment.tries += 8
    assert runs.start(ids, run_dir, *checks) == 0
    experiment.bytes_lost += chaos.bytes_lost(run_dir, uninterrupted, step=8)
    runs.assert_same_run(run_dir, uninterrupted, step=8)


def test_the_command_ends_with_code_1(ids, tmp_path, experiment):
    """What the launcher and a scheduler see of it."""
    experiment.done = "the command where a bit was flipped: code 1, no traceback"
    experiment.tries += 1
    ended = runs.run_script(
        FLIPPED, "train", ids, f"run_dir={tmp_path}/run", "training.replica_check_every=2",
        "parallel.layout=replicated",
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    assert f" on {jax.devices()[3]} of process 0" in ended.stderr


FLIPPED = """
import jax, numpy as np
from jaxllm import cli
from jaxllm.training.checks import StepChecks
compute = StepChecks.compute
def one(leaf):
    if not leaf.sharding.is_fully_replicated or leaf.ndim < 2: return leaf
    pieces = [np.array(shard.data) for shard in leaf.addressable_shards]
    pieces[3].reshape(-1).view(np.uint8)[0] ^= 1
    pieces = [jax.device_put(p, s.device) for p, s in zip(pieces, leaf.addressable_shards)]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, pieces)
def flip(self, step, compiled, state, batch):
    state, metrics = compute(self, step, compiled, state, batch)
    if step == 5:
        with jax.transfer_guard("allow"):
            state = state._replace(params=jax.tree.map(one, state.params))
    return state, metrics
StepChecks.compute = flip
cli.main()
"""
