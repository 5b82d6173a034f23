import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from jaxllm.optim import Adafactor, Adagrad, Adam, AdamW, Lion, Muon, OptimizerConfig, Sgd
from jaxllm.parallel.axes import WeightSpec

from .weights import SPECS, random_weights, role_of, step_once, unstack

CONSTANT = {"schedule": {"type": "constant"}}


def load(**values):
    return TypeAdapter(OptimizerConfig).validate_python(values)


@pytest.mark.parametrize("type_", [Sgd, Adagrad, AdamW, Adafactor, Lion, Muon])
def test_decay_takes_matrices_and_embeddings_only(type_):
    """Without a gradient, rate * decay of these weights is all that moves."""
    config = type_(learning_rate=0.5, weight_decay=0.25, **CONSTANT)
    rates = {"hidden": 0.5}
    if type_ is Muon:
        config = config.model_copy(update={"adam_learning_rate": 0.125})
        rates = {"hidden": 0.5, "embedding": 0.125, "output": 0.125}
    transformation = config.build(SPECS, total_steps=10)
    params = random_weights(0)
    updates = unstack(step_once(transformation, jax.tree.map(np.zeros_like, params), params))
    for name, weight in unstack(params).items():
        share = 0.0 if role_of(name) in ("scale", "bias") else 0.25
        # Exact: rates and share are powers of two.
        expected = -rates.get(role_of(name), 0.5) * share * weight
        np.testing.assert_array_equal(updates[name], expected, err_msg=name)


def test_adam_refuses_decay():
    with pytest.raises(ValidationError, match="weight_decay"):
        load(type="adam", weight_decay=0.1)


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_clips_by_the_norm_over_all_leaves(clip_norm):
    config = Sgd(learning_rate=1.0, momentum=0.0, clip_norm=clip_norm, **CONSTANT)
    transformation = config.build(SPECS, total_steps=10)
    grads = random_weights(0)
    updates = step_once(transformation, grads, grads)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)]).astype(np.float64)
    norm = np.sqrt(np.sum(flat**2))
    assert norm > 1
    factor = 1 / norm if clip_norm else 1.0
    for grad, update in zip(jax.tree.leaves(grads), jax.tree.leaves(updates), strict=True):
        # The norm is a float32 sum of some thousand squares, compared with float64.
        np.testing.assert_allclose(update, -factor * np.asarray(grad), rtol=1e-5)


def test_small_gradients_are_not_touched():
    config = Sgd(learning_rate=1.0, momentum=0.0, clip_norm=1e6, **CONSTANT)
    transformation = config.build(SPECS, total_steps=10)
    grads = random_weights(0)
    updates = step_once(transformation, grads, grads)
    jax.tree.map(lambda g, u: np.testing.assert_array_equal(u, -g), grads, updates)


@pytest.mark.parametrize("type_", ["sgd", "adagrad", "adam", "adamw", "adafactor", "lion", "muon"])
def test_every_type_loads_by_name_and_is_hashable(type_):
    config = load(type=type_)
    assert config.type == type_
    assert hash(config) == hash(load(type=type_))
    for name, field in type(config).model_fields.items():
        assert field.description, f"{type_}.{name} has no description"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"type": "adamw", "learning_rate": -1e-3}, "learning_rate"),
        ({"type": "adamw", "learning_rate": 0}, "learning_rate"),
        ({"type": "adamw", "weight_decay": -0.1}, "weight_decay"),
        ({"type": "adamw", "clip_norm": 0}, "clip_norm"),
        ({"type": "adamw", "beta2": 1.0}, "beta2"),
        ({"type": "adamw", "mu_dtype": "float16"}, "mu_dtype"),
        ({"type": "adamw", "momentum": 0.9}, "momentum"),
        ({"type": "adafactor", "clip_rms": 0.5}, "clip_rms"),
        ({"type": "muon", "ns_steps": 0}, "ns_steps"),
        ({"type": "muon", "adam_learning_rate": -1}, "adam_learning_rate"),
        ({"type": "sgd", "momentum": 0, "nesterov": True}, "nesterov is true but momentum is 0"),
        ({"type": "adamax"}, "adamax"),
        ({"type": "adamw", "schedule": {"type": "cosine", "warmup_steps": -1}}, "warmup_steps"),
        ({"type": "adamw", "schedule": {"type": "step"}}, "step"),
        ({"type": "adamw", "schedule": {"type": "wsd", "decay_fraction": 0}}, "decay_fraction"),
        ({"type": "adamw", "schedule": {"type": "constant", "final_fraction": 0}}, "final_frac"),
        ({"type": "adamw", "schedule": {"type": "linear", "final_fraction": 2}}, "final_fraction"),
    ],
)
def test_bad_values_are_refused_by_name(values, named):
    with pytest.raises(ValidationError, match=named):
        load(**values)


@pytest.mark.parametrize("type_", ["adamw", "muon"])
def test_warmup_longer_than_the_run_is_refused(type_):
    config = load(type=type_, schedule={"type": "cosine", "warmup_steps": 10})
    with pytest.raises(ValueError, match=r"optim\.schedule\.warmup_steps is 10.*10 steps"):
        config.build(SPECS, total_steps=10)
    config.build(SPECS, total_steps=11)


def test_the_rate_logged_is_the_rate_applied():
    config = Sgd(
        learning_rate=0.5,
        momentum=0.0,
        clip_norm=None,
        schedule={"type": "cosine", "warmup_steps": 2},
    )
    specs = {"scale": WeightSpec((), (), "scale")}
    transformation, schedule = config.build(specs, total_steps=6), config.schedule_fn(6)
    one = {"scale": jnp.ones(())}
    state = transformation.init(one)
    for step in range(7):
        updates, state = transformation.update(one, state, one)
        # Exact: one function, times one.
        assert float(updates["scale"]) == -float(schedule(step))


def test_only_the_constant_schedule_is_free_of_the_length_of_the_run():
    def depends(type_):
        return load(type="adamw", schedule={"type": type_}).depends_on_total_steps

    assert not depends("constant")
    assert all(depends(type_) for type_ in ("linear", "cosine", "wsd"))


def test_works_on_shapes_alone():
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), SPECS)
    for config in (AdamW(), Adafactor(min_factored_size=3), Muon()):
        transformation = config.build(SPECS, total_steps=10)
        state = jax.eval_shape(transformation.init, shapes)
        updates, after = jax.eval_shape(transformation.update, shapes, state, shapes)
        # The state keeps its shapes and dtypes from step to step, or it could not be donated.
        assert jax.tree.all(jax.tree.map(lambda a, b: a == b, state, after))
        assert jax.tree.map(lambda leaf: leaf.shape, updates) == jax.tree.map(
            lambda spec: spec.shape, SPECS
        )


@pytest.mark.parametrize("type_", [Adam, AdamW, Lion, Muon])
def test_moments_are_kept_in_their_dtype(type_):
    specs = {"up": SPECS["blocks"]["up"], "scale": SPECS["scale"]}
    shapes = jax.tree.map(lambda spec: jax.ShapeDtypeStruct(spec.shape, jnp.float32), specs)

    def dtypes(mu_dtype):
        transformation = type_(mu_dtype=mu_dtype).build(specs, total_steps=10)
        state = jax.eval_shape(transformation.init, shapes)
        return [leaf.dtype for leaf in jax.tree.leaves(state)]

    assert dtypes("bfloat16").count(jnp.bfloat16) == len(specs)
    assert jnp.bfloat16 not in dtypes("float32")
