"""A checkpoint of one layout is gone on with under another."""

import errno
import os
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny

from jaxllm.checkpoints import CheckpointConfig, CheckpointCorrupt, commit
from jaxllm.commands.saved_state import SavedState
from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.optim import AdamW, EmaConfig
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.training.state import abstract_with_shardings, new_state, state_shardings
from tests.checkpoints.states import break_file

LAYOUTS = {
    "rounds": ParallelConfig(stage=2, fsdp=2, tensor=2, pipeline_rounds=2),
    "stages": ParallelConfig(stage=4, fsdp=2),
    "fsdp": ParallelConfig(),
}


class Parts(NamedTuple):
    """Of an assembled run what a restore looks at."""

    state: object


class Nowhere:
    """A loader without data."""

    def state(self, step):
        return {}

    def check_state(self, state):
        assert state == {}


def make(name, *, has_guard=False):
    """The abstract state of a run under a layout."""
    layout = LAYOUTS[name].build()
    model = tiny.decoder(tiny.config(num_layers=4))
    specs = fold_specs(spec_dict(model), LAYOUTS[name].pipeline_rounds)
    optimizer = AdamW(learning_rate=1e-3).build(specs, total_steps=10)

    def first():
        weights = fold(param_dict(model), specs)
        return new_state(weights, optimizer, EmaConfig(decay=0.9), has_guard=has_guard)

    abstract = jax.eval_shape(first)
    return abstract_with_shardings(abstract, state_shardings(abstract, specs, layout))


def filled(abstract):
    """Every array of the state counts on where the one before it ended."""
    start, leaves = 0, []
    for leaf in jax.tree.leaves(abstract):
        values = (start + np.arange(leaf.size)).astype(leaf.dtype).reshape(leaf.shape)
        leaves.append(jax.device_put(values, leaf.sharding))
        start += leaf.size
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def open_state(folder):
    return SavedState(folder, CheckpointConfig(), Nowhere(), vocab_size=4, run_config={})


@pytest.mark.parametrize(("before", "after"), [("rounds", "fsdp"), ("stages", "rounds")])
def test_a_run_goes_on_under_another_layout(tmp_path, before, after):
    state = filled(make(before))
    with open_state(tmp_path) as saved:
        saved.save(3, state, validation_loss=None, training_seconds=0.0)
    target = make(after)
    with open_state(tmp_path) as saved:
        restored = saved.restore(Parts(target))
    for leaf, was in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        # With the rounds before the layers or without them, the numbers are in the same order.
        np.testing.assert_array_equal(np.ravel(leaf), np.ravel(was))
    for leaf, like in zip(jax.tree.leaves(restored), jax.tree.leaves(target), strict=True):
        assert (leaf.shape, leaf.sharding) == (like.shape, like.sharding)


@pytest.mark.parametrize(("was", "wanted"), [(True, True), (True, False), (False, True)])
def test_the_guard_goes_on_or_begins_anew_or_is_left_behind(tmp_path, was, wanted):
    state = filled(make("fsdp", has_guard=was))
    with open_state(tmp_path) as saved:
        saved.save(3, state, validation_loss=None, training_seconds=0.0)
    target = make("fsdp", has_guard=wanted)
    with open_state(tmp_path) as saved:
        restored = saved.restore(Parts(target))
    assert jax.tree.structure(restored) == jax.tree.structure(target)
    jax.tree.map(
        np.testing.assert_array_equal,
        restored._replace(guard=None),
        state._replace(guard=None),
    )
    if wanted:
        expected = state.guard if was else (0.0, 0, 0, 0)
        assert [leaf.item() for leaf in restored.guard] == [np.asarray(x).item() for x in expected]
        for leaf, like in zip(restored.guard, target.guard, strict=True):
            assert (leaf.dtype, leaf.sharding) == (like.dtype, like.sharding)


def test_what_was_forgotten_is_saved_again(tmp_path):
    before = filled(make("fsdp"))
    after = before._replace(step=jax.device_put(np.int32(9), before.step.sharding))
    with open_state(tmp_path) as saved:
        saved.save(3, before, validation_loss=None, training_seconds=0.0)
        saved.save(5, after, validation_loss=None, training_seconds=0.0)
        saved.forget_after(3)
        assert saved.sound_steps() == [3]
    with open_state(tmp_path) as saved:
        assert saved.start == 3
        restored = saved.restore(Parts(make("fsdp")))
        assert int(restored.step) == int(before.step)
        saved.save(5, restored, validation_loss=None, training_seconds=0.0)
    with open_state(tmp_path) as saved:
        assert saved.start == 5
        saved.forget_after(0)
    with open_state(tmp_path) as saved:
        assert saved.start == 0


def test_a_damaged_checkpoint_is_none_to_go_back_to(tmp_path):
    state = filled(make("fsdp"))
    with SavedState(
        tmp_path, CheckpointConfig(keep_latest=9), Nowhere(), vocab_size=4, run_config={}
    ) as saved:
        for step in (3, 4, 5):
            saved.save(step, state, validation_loss=None, training_seconds=0.0)
        assert saved.sound_steps() == [3, 4, 5]
        break_file(tmp_path / "4" / "opt" / "_METADATA", "flipped")
        assert saved.sound_steps() == [3, 5]
        with pytest.raises(CheckpointCorrupt):
            saved.forget_after(4)
        saved.forget_after(3)
    assert {path.name for path in tmp_path.iterdir()} == {"3"}


def test_a_save_that_failed_is_of_no_account_after_a_rollback(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state, said = filled(make("fsdp")), []
    config = CheckpointConfig(on_error="continue")
    with SavedState(
        tmp_path, config, Nowhere(), vocab_size=4, run_config={}, on_message=said.append
    ) as saved:
        saved.save(3, state, validation_loss=None, training_seconds=0.0)
        saved.wait()
        monkeypatch.setattr(commit, "_seal", refuse)
        saved.save(5, state, validation_loss=None, training_seconds=0.0)
        assert saved.sound_steps() == [3]
        saved.forget_after(3)
    assert said == [
        "step 5 was not saved, training goes on: "
        "a checkpoint could not be written (No space left on device)"
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"3"}
