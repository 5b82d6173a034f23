import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.nn.embed import Embedding
from jaxllm.nn.param import spec_dict

ROWS, EMBED = 7, 4


def make():
    return Embedding(jax.random.key(0), axis="vocab", rows=ROWS, embed_dim=EMBED, std=1.0)


def test_looks_up_rows_in_the_dtype_asked_for():
    embed = make()
    table = np.asarray(embed.table[...])
    indices = np.array([[0, 6, 3], [3, 3, 1]], np.int32)
    found = embed(indices, dtype=jnp.dtype("float32"), layout=None)
    np.testing.assert_array_equal(found, table[indices])
    assert embed(indices, dtype=jnp.dtype("bfloat16"), layout=None).dtype == jnp.bfloat16


def test_attends_to_every_row():
    embed = make()
    x = np.random.default_rng(0).normal(size=(2, 3, EMBED)).astype(np.float32)
    table = np.asarray(embed.table[...], np.float64)
    # Four products of size one, each rounded by 6e-8.
    np.testing.assert_allclose(embed.attend(x), x @ table.T, rtol=0, atol=2e-6)


def test_gradient_of_a_repeated_row_adds_up():
    embed = make()
    indices = np.array([[2, 2, 2, 5]], np.int32)

    def total(embed):
        return embed(indices, dtype=jnp.dtype("float32"), layout=None).sum()

    gradient = jax.grad(total)(embed).table[...]
    np.testing.assert_array_equal(gradient[:, 0], [0, 0, 3, 0, 0, 1, 0])


def test_is_a_table_to_optimizers():
    spec = spec_dict(make())["table"]
    assert (spec.role, spec.axes, spec.input_dims) == ("embedding", ("vocab", "embed"), (0,))
