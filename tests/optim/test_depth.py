"""Rates that fall with depth: what Optax does on each of stacked layers with its own rate."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from jaxllm.nn.param import spec_dict
from jaxllm.nn.parts import matching, part_like, split
from jaxllm.nn.stack import fold_specs
from jaxllm.optim import AdamW
from jaxllm.optim.depth import scale_by_depth
from jaxllm.optim.schedules import Constant
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import weight_items

from .weights import run

DECAY, RATE, STEPS = 0.5, 0.1, 3
MATRIX = WeightSpec((4, 6), ("embed", "mlp"), "hidden", (0,), (1,))
SPECS = {
    "embed": {"table": WeightSpec((8, 4), ("vocab", "embed"), "embedding", (0,), (1,))},
    "dense_blocks": {"layers": {"up": MATRIX.stacked("layers", 2)}},
    "blocks": {
        "layers": {
            "up": MATRIX.stacked("layers", 4),
            "norm": WeightSpec((4,), ("embed",), "scale").stacked("layers", 4),
        }
    },
    "norm": {"scale": WeightSpec((4,), ("embed",), "scale")},
    "out": {"kernel": replace(MATRIX, role="output")},
}
# Six layers; the head at distance 0, the uppermost at 1, the embeddings at 7.
DISTANCES = {
    "embed.table": 7,
    "dense_blocks.layers.up": (6, 5),
    "blocks.layers.up": (4, 3, 2, 1),
    "blocks.layers.norm": (4, 3, 2, 1),
    "norm.scale": 0,
    "out.kernel": 0,
}
OPTIM = AdamW(
    learning_rate=RATE, layer_decay=DECAY, schedule=Constant(), clip_norm=None, weight_decay=0.2
)


def flat(tree):
    return {".".join(key.key for key in path): x for path, x in jax.tree.leaves_with_path(tree)}


def by_hand(params, gradients):
    """Each layer's weight with an optimizer of its own."""
    moved = {}
    for path, distance in DISTANCES.items():
        role = flat(SPECS)[path].role
        parts = []
        for layer, steps in enumerate(np.atleast_1d(distance)):
            here = layer if np.ndim(distance) else slice(None)
            decay = 0.2 if role in ("hidden", "embedding", "output") else 0.0
            optimizer = optax.adamw(RATE * DECAY**steps, 0.9, 0.95, weight_decay=decay)
            weight = flat(params)[path][here]
            state = optimizer.init(weight)
            for gradient in gradients:
                update, state = optimizer.update(flat(gradient)[path][here], state, weight)
                weight = optax.apply_updates(weight, update)
            parts.append(weight)
        moved[path] = jnp.stack(parts) if np.ndim(distance) else parts[0]
    return moved


def trained(params, gradients, specs=SPECS):
    optimizer = OPTIM.build(specs, total_steps=STEPS)

    def steps(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return flat(run(steps, params, gradients))


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    draw = lambda spec: np.float32(rng.normal(size=spec.shape))  # noqa: E731
    params, *gradients = (jax.tree.map(draw, SPECS) for _ in range(1 + STEPS))
    return params, gradients


def test_every_layer_has_its_rate(weights):
    found, expected = trained(*weights), run(by_hand, *weights)
    for path, weight in expected.items():
        # A few roundings of float32, of weights of size one.
        np.testing.assert_allclose(found[path], weight, rtol=0, atol=1e-6, err_msg=path)


def test_folded_for_a_pipeline_it_is_the_same(weights):
    params, gradients = weights
    specs = fold_specs(SPECS, 2)
    shapes = {path: spec.shape for path, spec in weight_items(specs)}
    fold = lambda tree: jax.tree.map(lambda x, spec: x.reshape(spec.shape), tree, specs)  # noqa: E731
    found = trained(fold(params), [fold(gradient) for gradient in gradients], specs)
    assert shapes["blocks.layers.up"] == (2, 2, 4, 6)
    for path, weight in trained(params, gradients).items():
        np.testing.assert_array_equal(found[path].reshape(weight.shape), weight)


@pytest.mark.parametrize(
    "frozen",
    [
        {"embed", "dense_blocks.layers.up"},
        {"blocks.layers.up", "blocks.layers.norm"},
        {"dense_blocks.layers.up", "blocks.layers.up", "blocks.layers.norm"},
        {"norm.scale", "out.kernel", "blocks.layers.up"},
    ],
)
def test_a_rate_does_not_depend_on_what_else_is_frozen(frozen):
    chosen = matching(frozen, flat(SPECS).keys(), key="frozen")
    others, trained = split(SPECS, chosen)
    ones = jax.tree.map(lambda spec: np.ones(spec.shape, np.float32), SPECS)
    whole, _ = scale_by_depth(DECAY, SPECS).update(ones, optax.EmptyState())
    found, _ = scale_by_depth(DECAY, trained, frozen=others).update(
        part_like(ones, trained), optax.EmptyState()
    )
    assert flat(found).keys() == flat(SPECS).keys() - chosen
    jax.tree.map(np.testing.assert_array_equal, found, part_like(whole, trained))


@pytest.mark.parametrize(
    ("config", "inputs", "outputs"),
    [
        (tiny.gpt2(), ("embed", "position_embed"), ("norm",)),
        (
            tiny.bert(),
            ("embed", "position_embed", "type_embed", "input_norm"),
            ("vocabulary_head",),
        ),
    ],
)
def test_what_stands_in_front_of_the_layers_is_lowest(config, inputs, outputs):
    specs = spec_dict(tiny.abstract(config))
    ones = jax.tree.map(lambda spec: np.ones(spec.shape, np.float32), specs)
    scaled, _ = scale_by_depth(DECAY, specs).update(ones, optax.EmptyState())
    assert set(scaled) == {"blocks", *inputs, *outputs}
    lowest = DECAY ** (config.num_layers + 1)
    for names, factor in ((inputs, lowest), (outputs, 1.0)):
        for name in names:
            assert all((leaf == factor).all() for leaf in jax.tree.leaves(scaled[name])), name
