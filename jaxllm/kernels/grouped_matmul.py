"""Rows in consecutive groups, each group times a matrix of its own.

E groups (experts), S rows, I inputs, O outputs, R rows of a tile.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Rows of a tile where the loop below is used: enough for a CPU's matmul to run at full speed,
# few enough that little is computed twice where a group ends within a tile.
TILE_ROWS = 64


def grouped_matmul(
    x_SI: jax.Array, w_EIO: jax.Array, sizes_E: jax.Array, *, platform: str
) -> jax.Array:
    """(S, I) x (E, I, O) -> (S, O): the first sizes_E[0] rows times w_EIO[0], and so on.

    Rows beyond the sum of the sizes belong to no group: they cost nothing, get nothing defined
    (no caller may read them), and give nothing to the gradients. platform: where it will run.

    On TPU `jax.lax.ragged_dot` compiles to a kernel that visits pairs of a row tile and a group,
    with tiles that the compiler chooses for the chip and the rows beyond left out; Pallas'
    megablox does the same with one tiling for all sizes. Elsewhere XLA expands it to E masked
    products over all rows (22 times slower than one plain product with 8 experts on a CPU), so
    the same visits are a loop here.
    """
    if platform == "tpu":
        return jax.lax.ragged_dot(x_SI, w_EIO, sizes_E)
    return tiled_grouped_matmul(x_SI, w_EIO, sizes_E)


def grouped_matmul_reference(x_SI: jax.Array, w_EIO: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """The same with zeros in the rows beyond, one group after the other, for tests."""
    ends_E = jnp.cumsum(sizes_E)
    rows_S = jnp.arange(x_SI.shape[0])
    y_SO = jnp.zeros((x_SI.shape[0], w_EIO.shape[2]), x_SI.dtype)
    for group, w_IO in enumerate(w_EIO):
        is_mine_S = (rows_S >= ends_E[group] - sizes_E[group]) & (rows_S < ends_E[group])
        y_SO = jnp.where(is_mine_S[:, None], x_SI @ w_IO, y_SO)
    return y_SO


@jax.custom_vjp
def tiled_grouped_matmul(x_SI: jax.Array, w_EIO: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """The same as a loop over the pairs of a row tile and a group that meet; zeros beyond."""
    return _products(x_SI, lambda group: w_EIO[group], w_EIO.shape[2], sizes_E)


def _forward(x_SI: jax.Array, w_EIO: jax.Array, sizes_E: jax.Array) -> tuple[jax.Array, tuple]:
    return tiled_grouped_matmul(x_SI, w_EIO, sizes_E), (x_SI, w_EIO, sizes_E)


def _backward(saved: tuple, g_SO: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    x_SI, w_EIO, sizes_E = saved
    dx_SI = _products(g_SO, lambda group: w_EIO[group].T, w_EIO.shape[1], sizes_E)

    def add(
        group: jax.Array, row: jax.Array, is_mine_R1: jax.Array, dw_EIO: jax.Array
    ) -> jax.Array:
        rows = is_mine_R1.shape[0]
        x_RI = jax.lax.dynamic_slice_in_dim(x_SI, row, rows)
        g_RO = jax.lax.dynamic_slice_in_dim(g_SO, row, rows)
        return dw_EIO.at[group].add(
            jnp.matmul(
                jnp.where(is_mine_R1, x_RI, 0).T,
                # Masked too: what lies beyond the groups need not be finite.
                jnp.where(is_mine_R1, g_RO, 0),
                preferred_element_type=jnp.float32,
            )
        )

    dw_EIO = jnp.zeros(w_EIO.shape, jnp.float32)  # many tiles are added up
    dw_EIO = _visit(add, dw_EIO, sizes_E, num_rows=x_SI.shape[0])
    return dx_SI, dw_EIO.astype(w_EIO.dtype), None


tiled_grouped_matmul.defvjp(_forward, _backward)


def _products(
    x_SI: jax.Array, matrix: Callable[[jax.Array], jax.Array], num_outputs: int, sizes_E: jax.Array
) -> jax.Array:
    def write(
        group: jax.Array, row: jax.Array, is_mine_R1: jax.Array, y_SO: jax.Array
    ) -> jax.Array:
        rows = is_mine_R1.shape[0]
        y_RO = jax.lax.dynamic_slice_in_dim(x_SI, row, rows) @ matrix(group)
        old_RO = jax.lax.dynamic_slice_in_dim(y_SO, row, rows)
        return jax.lax.dynamic_update_slice_in_dim(
            y_SO, jnp.where(is_mine_R1, y_RO, old_RO), row, axis=0
        )

    y_SO = jnp.zeros((x_SI.shape[0], num_outputs), x_SI.dtype)
    return _visit(write, y_SO, sizes_E, num_rows=x_SI.shape[0])


def _visit(
    function: Callable, result: jax.Array, sizes_E: jax.Array, *, num_rows: int
) -> jax.Array:
    """result = function(group, first row, which of the tile's rows are the group's, result)

    for each pair of a tile and a group that meet, groups in order.
    """
    tile = min(TILE_ROWS, num_rows)
    ends_E = jnp.cumsum(sizes_E)
    starts_E = ends_E - sizes_E
    first_tile_E = starts_E // tile
    visits_E = jnp.where(sizes_E > 0, (ends_E - 1) // tile - first_tile_E + 1, 0)
    last_visit_E = jnp.cumsum(visits_E)

    def visit(index: jax.Array, result: jax.Array) -> jax.Array:
        group = jnp.sum(last_visit_E <= index)
        number = first_tile_E[group] + index - (last_visit_E[group] - visits_E[group])
        row = jnp.minimum(number * tile, num_rows - tile)
        rows_R1 = row + jnp.arange(tile)[:, None]
        # The last tile begins early enough to be whole; what it shares with the one before it is
        # that one's.
        first = jnp.maximum(starts_E[group], number * tile)
        is_mine_R1 = (rows_R1 >= first) & (rows_R1 < ends_E[group])
        return function(group, row, is_mine_R1, result)

    return jax.lax.fori_loop(0, last_visit_E[-1], visit, result)
