"""The product with a hand-written gradient against the one JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxllm.kernels.matmul import matmul, matmul_reference

# float32 sums of 96 products of unit normals, taken in another order: 96^0.5 * 2^-24 * 10 terms
# of rounding, relative to values of size 10.
TOLERANCE = 1e-5


@pytest.mark.parametrize("leading", [(96,), (4, 24), (2, 3, 16)])
def test_value_and_gradients_equal_the_derived_ones(leading):
    x_key, w_key, g_key = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(x_key, (*leading, 8))
    w = jax.random.normal(w_key, (8, 12))
    g = jax.random.normal(g_key, (*leading, 12))
    value, pull = jax.vjp(matmul, x, w)
    expected, pull_reference = jax.vjp(matmul_reference, x, w)
    np.testing.assert_array_equal(value, expected)
    for ours, derived in zip(pull(g), pull_reference(g), strict=True):
        np.testing.assert_allclose(ours, derived, rtol=TOLERANCE, atol=TOLERANCE)


def test_bfloat16_stays_bfloat16():
    x, w = jnp.ones((2, 3, 8), jnp.bfloat16), jnp.ones((8, 4), jnp.bfloat16)
    value, pull = jax.vjp(matmul, x, w)
    assert {leaf.dtype for leaf in (value, *pull(value))} == {jnp.dtype("bfloat16")}


def test_sharded_leading_dimensions_are_not_gathered():
    mesh = jax.make_mesh((2, 4), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    cut = NamedSharding(mesh, PartitionSpec("rows", "columns", None))
    whole = NamedSharding(mesh, PartitionSpec())

    def loss(x, w):
        return jnp.sum(jnp.square(matmul(x, w)))

    gradient = jax.jit(
        jax.grad(loss, argnums=(0, 1)), in_shardings=(cut, whole), out_shardings=(cut, whole)
    )
    program = gradient.lower(jnp.ones((4, 8, 6)), jnp.ones((6, 5))).compile().as_text()
    assert "all-reduce" in program  # the weight's gradient is summed over devices
    assert "all-gather" not in program
    assert "all-to-all" not in program
