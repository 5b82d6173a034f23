"""Stacked weights treated one by one.

Scanned blocks keep one array for all layers. A rule that looks at single numbers (momentum,
Adam) does not care; one that looks at a whole weight (its factored statistics, its RMS) would
mix the layers, so it is run under `vmap` over the stacking dimensions.
"""

from typing import Any

import jax
import optax

from jaxllm.optim.base import Specs
from jaxllm.parallel.axes import WeightSpec

# The logical axes along which independent weights are stacked. Vectors declare neither inputs
# nor outputs, so the names decide; for matrices the declared batch dimensions must agree.
STACKING_AXES = ("rounds", "layers", "experts")


def stacking_depth(spec: WeightSpec) -> int:
    """How many leading dimensions of a weight stack independent weights."""
    depth = sum(axis in STACKING_AXES for axis in spec.axes)
    assert all(axis in STACKING_AXES for axis in spec.axes[:depth]), f"must lead: {spec}"
    if spec.role == "hidden":
        assert spec.batch_dims == tuple(range(depth)), f"a batch of unknown kind: {spec}"
    return depth


def per_weight(
    transformation: optax.GradientTransformation, specs: Specs
) -> optax.GradientTransformation:
    """The transformation applied to each weight of a stack as if it stood alone.

    Weights are grouped by their stacking sizes, one vmap a group. Its state is that of
    `optax.partition`: within a group, every array of a weight has the stacking dimensions in
    front; scalars (step counts) are shared.
    """
    labels = jax.tree.map(_label, specs)
    groups: dict[str, optax.GradientTransformation] = {}
    for spec in jax.tree.leaves(specs):
        stacked = transformation
        for _ in range(stacking_depth(spec)):
            stacked = _mapped(stacked)
        groups[_label(spec)] = stacked
    return optax.partition(groups, labels)


def _label(spec: WeightSpec) -> str:
    """A name for weights that are stacked alike: it is in the paths of a checkpoint."""
    sizes = spec.shape[: stacking_depth(spec)]
    if sizes and spec.axes[0] == "rounds":
        # Named as without rounds, so that the run goes on under another layout.
        sizes = (sizes[0] * sizes[1], *sizes[2:])
    return "stacked_" + "x".join(map(str, sizes)) if sizes else "single"


def _mapped(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transformation` over the leading dimension of all its weights."""

    def init(params: Any) -> Any:
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
        out_axes = _mapped_axes(jax.eval_shape(transformation.init, one))
        return jax.vmap(transformation.init, out_axes=out_axes)(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        assert params is not None, "update needs the parameters"
        axes = _mapped_axes(state)
        step = jax.vmap(transformation.update, in_axes=(0, axes, 0), out_axes=(0, axes))
        return step(updates, state, params)

    return optax.GradientTransformation(init, update)


def _mapped_axes(state: Any) -> Any:
    # Scalars count steps, which all weights share. vmap itself raises if one of them turns out
    # to depend on the weight.
    return jax.tree.map(lambda leaf: 0 if leaf.ndim else None, state)
