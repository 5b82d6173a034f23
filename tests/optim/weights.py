"""A small model's weights: all roles, 2-D and 3-D matrices, stacked once or twice and single.

Every logical axis has a size of its own, so that a mixed-up axis shows in a shape.
"""

import jax
import numpy as np

from jaxllm.optim.stacked import stacking_depth
from jaxllm.parallel.axes import WeightSpec

LAYERS = 3
STACKS = {"layers": LAYERS, "experts": 2}
SIZES = {**STACKS, "vocab": 24, "embed": 8, "heads": 4, "head_dim": 6, "mlp": 16}


def spec(*axes, role, inputs=(), outputs=()):
    return WeightSpec(tuple(SIZES[axis] for axis in axes), axes, role, inputs, outputs)


def stacked(*axes, **kwargs):
    return spec(*axes, **kwargs).stacked("layers", LAYERS)


SPECS = {
    "table": spec("vocab", "embed", role="embedding", inputs=(0,), outputs=(1,)),
    "blocks": {
        "query": stacked("embed", "heads", "head_dim", role="hidden", inputs=(0,), outputs=(1, 2)),
        "out": stacked("heads", "head_dim", "embed", role="hidden", inputs=(0, 1), outputs=(2,)),
        "up": stacked("embed", "mlp", role="hidden", inputs=(0,), outputs=(1,)),
        "experts": stacked("experts", "embed", "mlp", role="hidden", inputs=(1,), outputs=(2,)),
        "bias": stacked("mlp", role="bias"),
        "scale": stacked("embed", role="scale"),
    },
    "scale": spec("embed", role="scale"),
    "head": spec("embed", "vocab", role="output", inputs=(0,), outputs=(1,)),
}
SPEC_OF = {
    "/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(SPECS)
}


def random_weights(seed):
    """Weights whose layers and experts differ in size by powers of ten, as float32 arrays."""
    rng = np.random.default_rng(seed)

    def one(spec):
        depth = stacking_depth(spec)
        stack = spec.shape[:depth]
        size = 10.0 ** (np.indices(stack).sum(axis=0) - bool(depth))
        size = size.reshape(*stack, *[1] * (len(spec.shape) - depth))
        return np.asarray(size * rng.normal(size=spec.shape), np.float32)

    return jax.tree.map(one, SPECS)


def run(function, *args):
    """`function` in one program, on NumPy arrays, compiled without XLA's slow optimisations."""
    compiled = jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
    return jax.device_get(compiled(*args))


def step_once(transformation, gradients, params):
    """The updates of a first step."""

    def step(gradients, params):
        return transformation.update(gradients, transformation.init(params), params)[0]

    return run(step, gradients, params)


def unstack(tree):
    """Each layer's and expert's own leaf: "blocks/up#2", "blocks/experts#2#0"."""
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = "/".join(key.key for key in path)
        stack = SPEC_OF[name].shape[: stacking_depth(SPEC_OF[name])]
        for index in np.ndindex(*stack):
            leaves["".join([name, *(f"#{place}" for place in index)])] = leaf[index]
    return leaves


def role_of(name):
    """The role of a leaf that `unstack` names."""
    return SPEC_OF[name.partition("#")[0]].role
