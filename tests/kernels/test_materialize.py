import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.materialize import gradient_materialized, materialized
from jaxllm.parallel.mesh import ParallelConfig


class OnTpu:
    platform = "tpu"


@pytest.mark.parametrize("settle", [materialized, gradient_materialized])
def test_neither_values_nor_gradients_change(settle):
    x = jnp.linspace(-1.0, 1.0, 7)

    def wave(layout):
        return jax.value_and_grad(lambda x: jnp.sum(jnp.sin(settle(layout, jnp.cos(x)))))(x)

    jax.tree.map(np.testing.assert_array_equal, wave(OnTpu()), wave(None))


def barriers(settle, layout):
    step = jax.grad(lambda x: jnp.sum(jnp.sin(settle(layout, jnp.cos(x)))))
    return str(jax.make_jaxpr(step)(jnp.ones(3))).count("optimization_barrier")


def test_only_tpus_get_barriers():
    cpu = ParallelConfig(layout="replicated").build()
    for settle, count in [(materialized, 2), (gradient_materialized, 1)]:
        assert barriers(settle, OnTpu()) == count
        assert barriers(settle, cpu) == barriers(settle, None) == 0
