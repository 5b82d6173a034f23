"""Experts with low-rank products beside their matrices, and with matrices of small integers.

Layers by themselves; in whole networks they are in test_lora and test_quantised.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.nn import expert_dispatch
from jaxllm.nn.adapters import LoraConfig, merged
from jaxllm.nn.param import bind, num_bytes, param_dict, spec_dict
from jaxllm.nn.quantised import QuantisedConfig, dequantised, with_placed_scales
from jaxllm.parallel.layouts import check_weights
from jaxllm.parallel.mesh import ParallelConfig

from . import adapted as networks
from .test_moe import D, E, F, inputs, make

RANK, ALPHA = 3, 6.0
MATRICES = ("up", "gate", "down")
# Tiles of four: three of them in the twelve inputs of `down`, which two devices share.
BASE = QuantisedConfig(dtype="int4", tile=4)
LAYOUTS = {
    "expert": ParallelConfig(expert=4, data=2),
    "expert_fsdp_tensor": ParallelConfig(layout="fsdp", expert=2, fsdp=2, tensor=2),
}


class Holder(nnx.Module):
    """A network of one mixture."""

    def __init__(self, moe):
        self.moe = moe


@cache
def network(*, is_rounded):
    """A mixture whose experts have adapters, and matrices of integers or not."""
    found = Holder(make())
    config = LoraConfig(rank=RANK, alpha=ALPHA, targets=("*.experts",), is_rank_stabilised=True)
    config.attach(jax.random.key(1), found)
    for name in MATRICES if is_rounded else ():
        getattr(found.moe.experts, name).quantise(BASE, path=name)
    return found


@cache
def weights(kind):
    """(what adapters learned, all else), by path.

    kind: `float` for random matrices, `int4` for those rounded, `rounded` for the same as floats.
    """
    rng, found = np.random.default_rng(2), param_dict(network(is_rounded=kind != "float"))
    params = sorted(flatten_dict(dequantised(found) if kind == "rounded" else found).items())
    learned = {
        path: np.float32(0.1 * rng.normal(size=leaf.shape))
        for path, leaf in params
        if "lora" in path
    }
    return learned, {path: leaf for path, leaf in params if path not in learned}


@cache
def program(layout, *, is_rounded):
    """(what was learned, all else, tokens) -> (((loss, result), slopes) of the mixture)."""
    built = None if layout is None else LAYOUTS[layout].build()

    def loss(learned, rest, x):
        moe = bind(network(is_rounded=is_rounded), unflatten_dict(rest | learned)).moe
        y, sums = moe(x, layout=built)
        return jnp.sum(jnp.cos(y)) + sums.loss, y

    return tiny.fast(jax.value_and_grad(loss, argnums=(0, 2), has_aux=True))


@cache
def outcome(kind, layout=None):
    """The mixture's loss and result, and the loss's slopes along adapters and tokens.

    layout: by name, with room for so few rows that other rounds must follow the first.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(expert_dispatch.across_devices.__kwdefaults__, "headroom", 0.3)
        run = program(layout, is_rounded=kind == "int4")
        return jax.device_get(run(*weights(kind), inputs()))


def test_each_expert_has_a_product_of_its_own():
    """That of the matrices with it merged in."""
    params, alone = weights("float")[0] | weights("float")[1], Holder(make())
    whole = merged(network(is_rounded=False), unflatten_dict(params))
    assert jax.tree.structure(whole) == jax.tree.structure(param_dict(alone))
    for name in MATRICES:
        path = ("moe", "experts", name)
        a, b = (np.float64(params[*path, "lora", factor]) for factor in "ab")
        expected = params[*path, "kernel"] + ALPHA / RANK**0.5 * np.einsum("eir,ero->eio", a, b)
        found = whole["moe"]["experts"][name]["kernel"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)  # sums of three products
    silent = jax.tree.map(np.zeros_like, weights("float")[0])
    run = program(None, is_rounded=False)
    (_, start), _ = run(silent, weights("float")[1], inputs())
    (_, y), _ = run(silent, flatten_dict(whole), inputs())
    assert np.abs(y - start).max() > 0.1
    # Two orders of float32 sums of a dozen products, of numbers up to about ten.
    np.testing.assert_allclose(outcome("float")[0][1], y, rtol=1e-5, atol=2e-5)


def test_integers_compute_what_their_numbers_do():
    """Forward and backward."""
    # Another order of float32 sums of a dozen products, and slopes of size a hundred of them.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4),
        outcome("int4"),
        outcome("rounded"),
    )


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        pytest.param("int4", "expert", marks=pytest.mark.slow),
        ("int4", "expert_fsdp_tensor"),
        pytest.param("float", "expert", marks=pytest.mark.slow),
        pytest.param("float", "expert_fsdp_tensor", marks=pytest.mark.slow),
    ],
)
def test_on_many_devices_they_compute_what_they_do_on_one(kind, layout):
    built, specs = LAYOUTS[layout].build(), spec_dict(network(is_rounded=kind == "int4"))
    check_weights(built, with_placed_scales(built, specs))
    # Gradients of size a hundred, summed over devices in another order: float32 rounding.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4),
        outcome(kind, layout),
        outcome(kind),
    )


def test_they_are_declared_as_the_experts_are():
    specs = spec_dict(network(is_rounded=True))["moe"]["experts"]
    up, down = specs["up"], specs["down"]
    assert up["lora"]["a"].axes == ("experts", "expert_embed", "rank")
    assert up["lora"]["b"].axes == ("experts", "rank", "mlp")
    assert down["lora"]["a"].axes == ("experts", "mlp", "rank")
    assert down["lora"]["b"].axes == ("experts", "rank", "expert_embed")
    assert (down["lora"]["a"].shape, down["lora"]["b"].shape) == ((E, F, RANK), (E, RANK, D))
    assert {one.batch_dims for one in (up["lora"]["a"], down["lora"]["b"])} == {(0,)}
    assert down["kernel"]["integers"].shape == (E, F, D)
    assert down["kernel"]["scale"].shape == (E, F // 4, D)


def test_frozen_bytes_shrink():
    """To half a byte a number, and a float32 for four of them."""
    for kind, expected in (("float", 4), ("int4", 0.5 + 4 / 4)):
        kernels = [leaf for path, leaf in weights(kind)[1].items() if "experts" in path]
        found = sum(num_bytes(leaf.shape, leaf.dtype) for leaf in kernels)
        assert found == expected * len(MATRICES) * E * D * F


def test_no_weight_in_floating_point_is_kept_for_the_backward_pass():
    learned, rest = weights("int4")

    def pull(learned, x):
        def result(learned, x):
            moe = bind(network(is_rounded=True), unflatten_dict(rest | learned)).moe
            return moe(x, layout=None)[0]

        return jax.vjp(result, learned, x)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull, learned, inputs()))
    kept = {(leaf.shape, str(leaf.dtype)) for leaf in leaves}
    assert ((E, F, D), "float32") not in kept
    assert ((E, F, RANK), "float32") in kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"has_magnitude": True}, r"adapter\.has_magnitude=true: not for the experts"),
        (
            {"dropout": 0.1},
            r"adapter\.dropout=0\.1: not .*=\['blocks'\] has blocks\.layers\.moe",
        ),
    ],
)
def test_what_experts_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        networks.adapted(
            networks.NETWORKS["experts"], LoraConfig(targets=("blocks", "*.query"), **options)
        )
