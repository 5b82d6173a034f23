"""E groups, S rows, I inputs, O outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.kernels.grouped_matmul import (
    TILE_ROWS,
    grouped_matmul,
    grouped_matmul_reference,
)

INPUTS, OUTPUTS = 6, 10
# Groups that end within a tile and at its edge, empty ones, rows that belong to none, rows that
# do not fill whole tiles, and fewer rows than a tile has.
CASES = {
    "uneven": (150, (70, 0, 1, 57, 0)),
    "whole": (2 * TILE_ROWS, (TILE_ROWS, 0, TILE_ROWS, 0, 0)),
    "one": (100, (0, 0, 100, 0, 0)),
    "few": (7, (0, 2, 0, 1, 3)),
    "none": (70, (0, 0, 0, 0, 0)),
}


def arrays(rows, sizes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, INPUTS)).astype(np.float32)
    w = rng.normal(size=(len(sizes), INPUTS, OUTPUTS)).astype(np.float32)
    g = rng.normal(size=(rows, OUTPUTS)).astype(np.float32)
    return x, w, g, np.array(sizes, np.int32)


# On a CPU both forms can be run: the loop, and the product that XLA has for TPUs.
@pytest.mark.parametrize(
    ("case", "platform"), [*((case, "cpu") for case in CASES), ("uneven", "tpu")]
)
def test_equals_one_group_after_the_other(case, platform):
    rows, sizes = CASES[case]
    x, w, g, sizes = arrays(rows, sizes)
    is_grouped = np.arange(rows)[:, None] < sizes.sum()

    def both(x, w, g, sizes):
        y, pull = jax.vjp(lambda x, w: grouped_matmul(x, w, sizes, platform=platform), x, w)
        # Whatever comes back for a row of no group must not reach the weights.
        return y, *pull(jnp.where(is_grouped, g, jnp.nan if platform == "cpu" else 0))

    def reference(x, w, g):
        y, pull = jax.vjp(lambda x, w: grouped_matmul_reference(x, w, sizes), x, w)
        return y, *pull(jnp.where(is_grouped, g, 0))

    y, dx, dw = fast(both)(x, w, g, sizes)
    expected_y, expected_dx, expected_dw = fast(reference)(x, w, g)
    # Sums of up to 150 products of size one to ten, in another order: float32 rounding.
    close = {"rtol": 0, "atol": 2e-5}
    np.testing.assert_allclose(np.where(is_grouped, y, 0), expected_y, **close)
    np.testing.assert_allclose(np.where(is_grouped, dx, 0), expected_dx, **close)
    np.testing.assert_allclose(dw, expected_dw, **close)


def test_gradients_of_many_tiles_are_summed_in_float32():
    """Tiles that add one each: in bfloat16 their sum would stop growing at 256."""
    tiles = 300
    rows = tiles * TILE_ROWS
    x = jnp.full((rows, 1), 1 / TILE_ROWS, jnp.bfloat16)
    w = jnp.ones((1, 1, 1), jnp.bfloat16)
    sizes = jnp.array([rows])
    gradient = jax.grad(lambda w: grouped_matmul(x, w, sizes, platform="cpu").sum())
    assert float(gradient(w)[0, 0, 0]) == tiles
