"""B rows, D width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.linear import Linear
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.param import bind, normal, param_dict, spec_dict
from jaxllm.nn.stack import Stack, fold, fold_specs
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import batch_sharding
from jaxllm.training.state import abstract_with_shardings

LAYERS, D = 4, 8


def make_linear(key):
    return Linear(
        key, inputs={"embed": D}, outputs={"embed": D}, use_bias=False, init=normal(D**-0.5)
    )


def make_mlp(key):
    return Mlp(
        key,
        embed_dim=D,
        mlp_dim=16 * D,
        activation="gelu",
        is_gated=True,
        use_bias=False,
        init=normal(0.1),
        output_init=normal(0.1),
    )


def stack(make=make_linear, *, remat="none", is_scanned=True):
    return Stack(jax.random.key(3), make, num_layers=LAYERS, remat=remat, is_scanned=is_scanned)


def test_each_layer_starts_as_it_would_alone():
    stacked = param_dict(stack().layers)["kernel"]
    for index, key in enumerate(jax.random.split(jax.random.key(3), LAYERS)):
        alone = param_dict(make_linear(key))["kernel"]
        np.testing.assert_array_equal(stacked[index], alone)


def test_weights_gain_the_layers_axis():
    alone, stacked = spec_dict(make_linear(jax.random.key(0))), spec_dict(stack().layers)
    assert stacked["kernel"] == alone["kernel"].stacked("layers", LAYERS)
    assert stacked["kernel"].fan_in == D
    assert stacked["kernel"].batch_dims == (0,)


@pytest.mark.parametrize("is_scanned", [True, False])
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_layers_run_in_order_each_with_its_own_input_and_output(remat, is_scanned):
    layers = stack(remat=remat, is_scanned=is_scanned)
    x = np.random.default_rng(0).normal(size=(2, D)).astype(np.float32)

    def run(params, x):
        bound = bind(layers, params)
        body = lambda layer, x, i, rows, _: (layer(x) + i + rows[:, None], x.sum())  # noqa: E731
        return bound(body, x, jnp.arange(LAYERS), rows=jnp.array([0.0, 0.5]))

    params = param_dict(layers)
    last, sums = fast(run)(params, x)
    y, expected_sums = x.astype(np.float64), []
    for index, kernel in enumerate(np.asarray(params["layers"]["kernel"], np.float64)):
        expected_sums.append(y.sum())
        y = y @ kernel + index + [[0.0], [0.5]]
    # Eight products a layer, values up to ten, each rounded by 6e-8.
    np.testing.assert_allclose(last, y, rtol=0, atol=3e-5)
    np.testing.assert_allclose(sums, expected_sums, rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_scanned", [True, False])
def test_recomputing_saves_memory(is_scanned):
    """Also unrolled, where the compiler could merge the recomputation with the first pass."""

    def scratch(remat):
        layers = stack(make_mlp, remat=remat, is_scanned=is_scanned)

        def loss(params, x):
            body = lambda layer, x, *_: (x + layer(x, layout=None), None)  # noqa: E731
            return bind(layers, params)(body, x, None)[0].sum()

        x = jax.ShapeDtypeStruct((4, 256, D), jnp.float32)
        compiled = fast(jax.grad(loss)).lower(param_dict(layers), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # All layers' hidden activations against one layer's: four times in the limit.
    assert scratch("full") < 0.6 * scratch("none")


def test_folded_weights_are_the_same_layers():
    layers = stack()
    specs = spec_dict(layers)
    folded_specs = fold_specs(specs, 2)
    spec = folded_specs["layers"]["kernel"]
    assert spec.axes == ("rounds", "layers", "embed", "embed")
    assert (spec.batch_dims, spec.fan_in) == ((0, 1), D)
    assert fold_specs(specs, 1) == specs
    x = np.random.default_rng(0).normal(size=(2, D)).astype(np.float32)

    def run(params):
        return bind(layers, params)(lambda layer, x, *_: (layer(x), x), x, None)

    params = param_dict(layers)
    folded = fold(params, folded_specs)
    assert folded["layers"]["kernel"].shape == spec.shape == (2, LAYERS // 2, D, D)
    jax.tree.map(np.testing.assert_array_equal, fast(run)(folded), fast(run)(params))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_pipeline_keeps_no_weights_for_the_backward_pass(remat):
    """A stage has other weights in each round, and a tick of each stage is in another round."""
    parallel = ParallelConfig(stage=2, pipeline_microbatches=8, pipeline_rounds=2)
    layout = parallel.build(jax.devices()[:2])
    layers = stack(make_mlp, remat=remat)

    def loss(params, x):
        body = lambda layer, x, *_: (x + layer(x, layout=None), None)  # noqa: E731
        return bind(layers, params)(body, x, None, layout=layout)[0].sum()

    specs = fold_specs(spec_dict(layers), 2)
    params = fold(param_dict(layers), specs)
    shardings = weight_shardings(layout, specs)
    x = jax.ShapeDtypeStruct((8, 1, D), jnp.float32, sharding=batch_sharding(layout, 3))
    abstract = abstract_with_shardings(params, shardings)
    compiled = fast(jax.grad(loss), out_shardings=shardings).lower(abstract, x).compile()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) // layout.axis_size("stage")
    # Activations are a few vectors a tick. One set of weights in each of the 17 ticks would be 17
    # times as much as two rounds' weights, and half of that where they are halved by rounds.
    assert compiled.memory_analysis().temp_size_in_bytes < 5 * weights
