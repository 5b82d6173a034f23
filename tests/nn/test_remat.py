"""B rows, T length, D embed."""

import jax
import jax.numpy as jnp
import pytest
import tiny
from pydantic import ValidationError

from jaxllm.models import DecoderConfig
from jaxllm.nn.param import bind, param_dict
from jaxllm.nn.remat import NAMES, kept
from jaxllm.objectives import CausalLm


def gradient(**options):
    """The gradient of one tiny decoder's loss, and its abstract weights."""
    config = tiny.config(num_layers=1, **options)
    model, batch = tiny.abstract(config), tiny.batch(rows=2)

    def loss(params):
        return CausalLm()(bind(model, params), batch).loss

    return jax.grad(loss), param_dict(model)


def num_matmuls(**options):
    """Before the compiler optimises."""
    function, params = gradient(**options)
    return jax.jit(function).lower(params).as_text().count("dot_general")


def num_moves(**options):
    """Transfers between device and host memory."""
    function, params = gradient(**options)
    return str(jax.make_jaxpr(function)(params)).count("device_put")


def test_the_more_is_kept_the_less_is_recomputed():
    counts = {
        policy: num_matmuls(remat=policy)
        for policy in ("full", "attention", "qkv", "qkv_mlp", "matmuls")
    }
    assert counts["full"] == counts["qkv"] + 3  # query, key and value
    assert counts["qkv"] == counts["qkv_mlp"] + 2  # gate and up
    # The attention kernel's result (here weights times values) and the branch's projection.
    assert counts["qkv_mlp"] == counts["matmuls"] + 2
    assert counts["full"] == counts["attention"] + 1
    assert counts["matmuls"] > num_matmuls(remat="none")


def test_what_is_offloaded_is_not_recomputed_and_moves_both_ways():
    assert num_matmuls(remat="full", offload="qkv") == num_matmuls(remat="qkv")
    assert num_moves(remat="full", offload="qkv") == 2 * 3
    assert num_moves(remat="qkv") == 0


def test_every_policy_names_what_layers_keep():
    for names in NAMES.values():
        for name in names:
            kept(jnp.ones(1), name)
    with pytest.raises(AssertionError):
        kept(jnp.ones(1), "quary")


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_offload_needs_names(remat):
    with pytest.raises(ValidationError, match=rf"offload=qkv .*remat={remat} .*set remat to full"):
        DecoderConfig(remat=remat, offload="qkv")
