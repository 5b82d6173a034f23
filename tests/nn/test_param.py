import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.param import bind, fan_in_normal, normal, ones, param_dict, spec_dict, zeros
from jaxllm.parallel.axes import WeightSpec

CONFIGS = {
    "llama": tiny.config(qk_norm="head"),
    "gpt2": tiny.gpt2(),
}
SPEC = WeightSpec((64, 8, 32), ("embed", "heads", "head_dim"), "hidden", (0,), (1, 2))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_has_a_spec_of_its_shape(name):
    model = tiny.abstract(CONFIGS[name])
    params, specs = param_dict(model), spec_dict(model)
    assert jax.tree.structure(params) == jax.tree.structure(specs)
    jax.tree.map(lambda leaf, spec: np.testing.assert_equal(leaf.shape, spec.shape), params, specs)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    for spec in jax.tree.leaves(specs["blocks"]):
        assert (spec.axes[0], spec.shape[0]) == ("layers", 3)
        assert 0 not in spec.input_dims + spec.output_dims


@pytest.mark.parametrize("name", CONFIGS)
def test_binding_round_trips(name):
    model = tiny.abstract(CONFIGS[name])
    params = jax.tree.map(
        lambda leaf, seed: np.full(leaf.shape, seed, np.float32),
        param_dict(model),
        _numbered(param_dict(model)),
    )
    bound = bind(model, params)
    back = param_dict(bound)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    assert spec_dict(bound) == spec_dict(model)
    assert bound.config == model.config


def _numbered(tree):
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, range(len(leaves)))


def test_binding_leaves_the_model_as_it_was():
    model = tiny.abstract(CONFIGS["llama"])
    bind(model, jax.tree.map(lambda leaf: np.zeros(leaf.shape), param_dict(model)))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model))


def test_a_missing_weight_is_an_error():
    model = tiny.abstract(CONFIGS["llama"])
    params = {name: part for name, part in param_dict(model).items() if name != "norm"}
    with pytest.raises(KeyError, match="norm"):
        bind(model, params)


@pytest.mark.parametrize(
    ("init", "std"),
    [(normal(0.3), 0.3), (fan_in_normal(), 1 / 8), (fan_in_normal(0.5), 1 / 16)],
)
def test_standard_deviations(init, std):
    weights = np.asarray(tiny.fast(lambda key: init(key, SPEC))(jax.random.key(0)))
    assert weights.dtype == np.float32
    # Of n = 16,384 draws the deviation is off by 1 / sqrt(2 n) = 0.55%, the mean by std / sqrt(n);
    # five of those each.
    np.testing.assert_allclose(weights.std(), std, rtol=0.028, atol=0)
    assert abs(weights.mean()) < 5 * std / 128


def test_constants():
    np.testing.assert_array_equal(zeros(jax.random.key(0), SPEC), np.zeros(SPEC.shape))
    np.testing.assert_array_equal(ones(jax.random.key(0), SPEC), np.ones(SPEC.shape))
