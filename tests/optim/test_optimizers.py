"""On stacked layers every optimizer does, layer by layer, what Optax does on the layer's leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxllm.optim import Adafactor, Adagrad, Adam, AdamW, Lion, Muon, Sgd
from jaxllm.optim.schedules import Constant, Linear

from .weights import SPEC_OF, SPECS, random_weights, role_of, run, step_once, unstack

STEPS = 4
SCHEDULE = {"schedule": Linear(warmup_steps=1)}
# Below the norm of the first gradients and above that of the last.
CLIP = 100.0


def rate(peak):
    return lambda step: jnp.where(step < 1, peak * step, peak * (1 - (step - 1) / (STEPS - 1)))


def decayed(tree):
    return {name: role_of(name) not in ("scale", "bias") for name in tree}


def adafactor(decay):
    # Optax does not multiply Adafactor's decay by the rate; here that is done by hand.
    return optax.adafactor(
        rate(0.1),
        min_dim_size_to_factor=3,
        weight_decay_rate=lambda step: decay * rate(0.1)(step),
        weight_decay_mask=decayed,
    )


def muon_and_adamw(**options):
    names = unstack(random_weights(0))
    labels = {name: "muon" if role_of(name) == "hidden" else "adamw" for name in names}
    adamw = optax.adamw(rate(0.3), 0.9, 0.95, weight_decay=0.2, mask=decayed)
    muon = optax.contrib.muon(rate(0.1), weight_decay=0.2, **options)
    return optax.partition({"muon": muon, "adamw": adamw}, labels)


# Ours, Optax by hand, and the tolerance relative to the largest entry of an update.
# 1e-6: ten roundings of float32, which sums in another order (the global norm, RMS) may cost.
# Muon: five Newton-Schulz steps amplify what stands in the smallest singular values by up to
# 3.44 ** 5, so five hundred roundings.
CASES = {
    "sgd": (Sgd(learning_rate=0.1, momentum=0.0), optax.sgd(rate(0.1)), 1e-6),
    "momentum": (Sgd(learning_rate=0.1), optax.sgd(rate(0.1), 0.9), 1e-6),
    "nesterov": (Sgd(learning_rate=0.1, nesterov=True), optax.sgd(rate(0.1), 0.9, True), 1e-6),
    "adagrad": (Adagrad(learning_rate=0.1), optax.adagrad(rate(0.1)), 1e-6),
    "adam": (Adam(learning_rate=0.1), optax.adam(rate(0.1)), 1e-6),
    "adam, bfloat16": (
        Adam(learning_rate=0.1, mu_dtype="bfloat16"),
        optax.adam(rate(0.1), mu_dtype=jnp.bfloat16),
        # Where float32 differs in the last bit, the rounding to bfloat16 may go the other way: a
        # unit in its last place is up to 2^-7 of the value.
        2**-7,
    ),
    "adamw": (
        AdamW(learning_rate=0.1, weight_decay=0.2),
        optax.adamw(rate(0.1), 0.9, 0.95, weight_decay=0.2, mask=decayed),
        1e-6,
    ),
    "lion": (
        Lion(learning_rate=0.1, weight_decay=0.2),
        optax.lion(rate(0.1), weight_decay=0.2, mask=decayed),
        1e-6,
    ),
    "adafactor": (
        Adafactor(learning_rate=0.1, weight_decay=0.2, min_factored_size=3),
        adafactor(0.2),
        1e-6,
    ),
    "adafactor, plain": (
        Adafactor(learning_rate=0.1, scale_by_weight=False, clip_rms=None),
        optax.adafactor(rate(0.1), multiply_by_parameter_scale=False, clipping_threshold=None),
        1e-6,
    ),
    "muon": (
        Muon(learning_rate=0.1, adam_learning_rate=0.3, weight_decay=0.2),
        muon_and_adamw(),
        3e-5,
    ),
    "muon, consistent": (
        Muon(
            learning_rate=0.1,
            adam_learning_rate=0.3,
            weight_decay=0.2,
            consistent_rms=0.2,
            nesterov=False,
            ns_steps=3,
        ),
        muon_and_adamw(consistent_rms=0.2, nesterov=False, ns_steps=3),
        3e-5,
    ),
}


def gradients():
    return [jax.tree.map(lambda g, s=s: g / 4**s, random_weights(s + 1)) for s in range(STEPS)]


def as_matrices(leaves):
    """Muon by hand: matrices flattened to 2-D, which is all that plain Muon knows."""
    flat = {}
    for name, leaf in leaves.items():
        spec = SPEC_OF[name.partition("#")[0]]
        flat[name] = leaf.reshape(spec.fan_in, -1) if spec.role == "hidden" else leaf
    return flat


def updates_of_all_steps(transformation, params, gradients):
    """The updates of all steps, each leaf with the steps in front."""

    def step(carry, grads):
        params, state = carry
        updates, state = transformation.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), updates

    def steps(params, gradients):
        return jax.lax.scan(step, (params, transformation.init(params)), gradients)[1]

    stacked = jax.tree.map(lambda *steps: np.stack(steps), *gradients)
    updates = run(steps, params, stacked)
    return [jax.tree.map(lambda leaf, s=s: leaf[s], updates) for s in range(len(gradients))]


@pytest.mark.parametrize("case", CASES)
def test_each_layer_as_optax_by_hand(case):
    config, by_hand, tolerance = CASES[case]
    config = config.model_copy(update={"clip_norm": CLIP, **SCHEDULE})
    norms = [np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(g))) for g in gradients()]
    assert max(norms) > CLIP > min(norms)

    ours = updates_of_all_steps(
        config.build(SPECS, total_steps=STEPS), random_weights(0), gradients()
    )
    convert = as_matrices if isinstance(config, Muon) else lambda leaves: leaves
    theirs = updates_of_all_steps(
        optax.chain(optax.clip_by_global_norm(CLIP), by_hand),
        convert(unstack(random_weights(0))),
        [convert(unstack(grads)) for grads in gradients()],
    )

    for mine, other in zip(ours, theirs, strict=True):
        mine = unstack(mine)
        assert mine.keys() == other.keys()
        for name, expected in other.items():
            np.testing.assert_allclose(
                mine[name].reshape(expected.shape),
                expected,
                rtol=0,
                atol=tolerance * np.abs(expected).max(),
                err_msg=name,
            )


@pytest.mark.parametrize("case", CASES)
def test_a_bias_without_gradient_stays(case):
    """Whatever moves it instead, such as the balance of a router's loads, is not undone."""
    config = CASES[case][0].model_copy(update={"schedule": Constant()})
    specs = {"blocks": {name: SPECS["blocks"][name] for name in ("up", "bias")}}
    params = {"blocks": {name: random_weights(0)["blocks"][name] for name in ("up", "bias")}}
    grads = {"blocks": params["blocks"] | {"bias": np.zeros_like(params["blocks"]["bias"])}}
    updates = step_once(config.build(specs, total_steps=STEPS), grads, params)["blocks"]
    assert not np.any(updates["bias"])
    assert np.all(updates["up"])


@pytest.mark.parametrize("consistent_rms", [None, 0.2])
def test_muon_step_is_orthogonal_per_layer(consistent_rms):
    """All singular values of a layer's step are near one, times the factor of its shape."""
    config = Muon(learning_rate=1.0, schedule={"type": "constant"}, consistent_rms=consistent_rms)
    updates = step_once(config.build(SPECS, total_steps=1), random_weights(1), random_weights(0))
    for name, matrix in as_matrices(unstack(updates)).items():
        if role_of(name) == "hidden":
            fan_in, fan_out = matrix.shape
            wide = max(1.0, fan_out / fan_in) ** 0.5
            factor = wide if consistent_rms is None else 0.2 * max(fan_in, fan_out) ** 0.5
            singular = np.linalg.svd(matrix, compute_uv=False) / factor
            # Muon's coefficients are tuned to land between 0.7 and 1.2, not on one.
            assert singular.min() > 0.5, name
            assert singular.max() < 1.3, name
