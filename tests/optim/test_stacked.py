import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.optim.stacked import per_weight, stacking_depth
from jaxllm.parallel.axes import WeightSpec

from .weights import SPECS, stacked, step_once


def test_depth():
    assert stacking_depth(SPECS["table"]) == 0
    assert stacking_depth(SPECS["scale"]) == 0
    assert stacking_depth(SPECS["blocks"]["scale"]) == 1
    assert stacking_depth(SPECS["blocks"]["query"]) == 1
    assert stacking_depth(SPECS["blocks"]["experts"]) == 2


def test_depth_refuses_a_batch_it_does_not_know():
    with pytest.raises(AssertionError, match="unknown kind"):
        stacking_depth(WeightSpec((4, 8, 6), ("heads", "embed", "head_dim"), "hidden", (1,), (2,)))


def test_stacks_of_different_sizes_and_depths():
    """The RMS of each weight becomes one, whatever it is stacked with."""
    up = stacked("embed", "mlp", role="hidden", inputs=(0,), outputs=(1,))
    specs = {"single": SPECS["table"], "three": up, "two_by_three": up.stacked("layers", 2)}
    rng = np.random.default_rng(0)
    grads = {
        name: np.asarray(rng.normal(size=spec.shape) * 10, np.float32)
        for name, spec in specs.items()
    }
    transformation = per_weight(optax.clip_by_block_rms(1.0), specs)
    for update in step_once(transformation, grads, grads).values():
        rms = np.sqrt(np.mean(np.asarray(update) ** 2, axis=(-2, -1)))
        # A float32 mean of some hundred squares.
        np.testing.assert_allclose(rms, 1.0, rtol=1e-5)


def test_a_count_is_shared_by_the_stack():
    specs = {"up": SPECS["blocks"]["up"]}
    grads = {"up": jnp.ones(specs["up"].shape)}
    transformation = per_weight(optax.scale_by_adam(), specs)
    state = transformation.init(grads)
    for _ in range(2):
        _, state = transformation.update(grads, state, grads)
    inner = state.inner_states["stacked_3"].inner_state
    assert inner.count.shape == ()
    assert int(inner.count) == 2
    assert inner.mu["up"].shape == specs["up"].shape
