import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.optim import Adafactor, Adagrad, Adam, AdamW, Lion, Muon, Sgd, state_axes
from jaxllm.parallel.axes import WeightSpec

from .weights import SIZES, SPECS, STACKS, run

SHAPES = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), SPECS)
CONFIGS = {
    "sgd": Sgd(),
    "adagrad": Adagrad(),
    "adam": Adam(),
    "adamw": AdamW(mu_dtype="bfloat16"),
    "adafactor": Adafactor(min_factored_size=3),
    "adafactor, unfactored": Adafactor(),
    "lion": Lion(),
    "muon": Muon(),
}


def abstract_state(config, shapes=SHAPES, specs=SPECS):
    return jax.eval_shape(config.build(specs, total_steps=10).init, shapes)


def leaves_with_axes(config):
    """Pairs of a state array and its logical axes."""
    state = abstract_state(config)
    pairs = jax.tree.map(lambda leaf, axes: [(leaf, axes)], state, state_axes(state, SPECS))
    return jax.tree.leaves(pairs, is_leaf=lambda node: isinstance(node, list))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_dimension_has_the_size_of_its_axis(name):
    pairs = [pair for [pair] in leaves_with_axes(CONFIGS[name])]
    assert any(axes for _, axes in pairs)
    for leaf, axes in pairs:
        assert len(axes) == leaf.ndim
        for size, axis in zip(leaf.shape, axes, strict=True):
            # Only Adafactor's placeholders and Muon's three coefficients have unnamed dimensions.
            assert size == SIZES[axis] if axis else size in (1, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_moments_have_the_axes_of_their_weight(name):
    """Every weight has a state array with all its axes, but for what Adafactor factors."""
    found = {axes for [(_, axes)] in leaves_with_axes(CONFIGS[name])}
    for spec in jax.tree.leaves(SPECS):
        single = [
            size for size, axis in zip(spec.shape, spec.axes, strict=True) if axis not in STACKS
        ]
        if name == "adafactor" and len(single) > 1:
            rows, columns = sorted(single)[-2:]
            for dropped in (rows, columns):
                dim = spec.shape.index(dropped)
                assert (*spec.axes[:dim], *spec.axes[dim + 1 :]) in found
        else:
            assert spec.axes in found


def test_rows_and_columns_of_a_square_weight():
    """Equal sizes do not tell a row from a column; what the arrays hold does."""
    spec = WeightSpec((8, 8), ("embed", "mlp"), "hidden", (0,), (1,)).stacked("layers", 2)
    transformation = Adafactor(min_factored_size=3).build({"w": spec}, total_steps=10)
    params = {"w": np.ones(spec.shape, np.float32)}
    grads = {"w": np.zeros(spec.shape, np.float32)}
    grads["w"][:, 2, 5] = 1.0

    def state_after(grads, params):
        return transformation.update(grads, transformation.init(params), params)[1]

    state = run(state_after, grads, params)
    peaks = {}

    def note(leaf, axes):
        if leaf.shape == (2, 8):
            peaks[axes] = np.argmax(leaf, axis=1).tolist()

    jax.tree.map(note, state, state_axes(state, {"w": spec}))
    assert peaks == {("layers", "embed"): [2, 2], ("layers", "mlp"): [5, 5]}


def test_the_longest_path_wins():
    short = WeightSpec((8,), ("embed",), "scale")
    specs = {"scale": short, "inner": {"scale": WeightSpec((8,), ("mlp",), "scale")}}
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), specs)
    state = abstract_state(Sgd(), shapes, specs)
    trace = next(part for part in state_axes(state, specs) if part)
    assert trace.trace == {"scale": ("embed",), "inner": {"scale": ("mlp",)}}


def test_state_of_an_unknown_weight_is_an_error():
    """Silently replicated moments would cost the memory that sharding is for."""
    state = abstract_state(AdamW())
    specs = {name: spec for name, spec in SPECS.items() if name != "table"}
    with pytest.raises(AssertionError, match="no known weight"):
        state_axes(state, specs)
