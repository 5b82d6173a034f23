from functools import cache

import jax
import numpy as np
import tiny

from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.optim import AdamW, EmaConfig
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.training.state import (
    abstract_with_shardings,
    init_sharded,
    new_state,
    state_shardings,
)

CONFIG = tiny.config(is_gated=False, is_tied=True, residual_init="zero")
ONE_DEVICE = ParallelConfig(layout="replicated").build(jax.devices()[:1])
FSDP = ParallelConfig(layout="fsdp").build()


@cache
def make_state(layout):
    """(abstract state with its shardings, the state), initialised as a run does."""
    specs = spec_dict(tiny.abstract(CONFIG))
    optimizer = AdamW().build(specs, total_steps=10)

    def make(key):
        return new_state(param_dict(CONFIG.build(key, tiny.VOCAB)), optimizer, EmaConfig())

    abstract = jax.eval_shape(make, jax.random.key(0))
    shardings = state_shardings(abstract, specs, layout)
    state = init_sharded(make, jax.random.key(0), shardings)
    return abstract_with_shardings(abstract, shardings), state


def test_the_same_weights_start_on_every_layout():
    _, alone = make_state(ONE_DEVICE)
    abstract, cut = make_state(FSDP)
    # Random bits are equal wherever they are drawn; their transformation to a normal deviate
    # may be fused in another way: one float32 rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7, atol=1e-8), alone, cut)
    for wanted, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(cut), strict=True):
        assert leaf.sharding == wanted.sharding
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)


def bytes_by_device(tree):
    sizes = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            sizes[shard.device] += shard.data.nbytes
    return sizes


def test_no_device_holds_more_than_its_part():
    """Every weight of this network has the embed axis, which eight devices share."""
    _, state = make_state(FSDP)
    for part in (state.params, state.ema, state.opt_state):
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(part) if leaf.ndim)
        for size in bytes_by_device([leaf for leaf in jax.tree.leaves(part) if leaf.ndim]).values():
            assert size == whole / 8
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert moments == 2 * weights


def test_the_average_starts_at_the_weights_in_memory_of_its_own():
    _, state = make_state(ONE_DEVICE)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.ema, state.params))]
    assert len(set(pointers)) == len(pointers)  # both are donated
    assert int(state.step) == 0
