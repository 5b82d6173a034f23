"""Pairs that are told from all other pairs of a batch.

B batch, P width of the vectors.
"""

import jax
import jax.numpy as jnp

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import LossSums
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.stages import outside

_NO_NEGATIVE = -1e30  # finite, so that a row that is not scored has a gradient of 0 and not of NaN
_SHORTEST = 1e-12


def unit(x_BP: jax.Array) -> jax.Array:
    """Vectors of length 1, in float32; those of length 0 stay so, and have gradients."""
    x_BP = x_BP.astype(jnp.float32)
    squared_B1 = jnp.sum(jnp.square(x_BP), axis=-1, keepdims=True)
    return x_BP / jnp.sqrt(jnp.maximum(squared_B1, _SHORTEST**2))


def in_batch_sums(
    left_BP: jax.Array,
    right_BP: jax.Array,
    mask_B: jax.Array,
    *,
    is_symmetric: bool,
    layout: Layout | None = None,
) -> LossSums:
    """-log of the share of each left vector's own right one among all right ones of the batch.

    The products of vectors are the logits (InfoNCE, arXiv:1807.03748, equation 4). is_symmetric:
    the mean of that and of the same with the sides exchanged (arXiv:2103.00020, figure 3). mask_B:
    rows where it is 0 are neither scored nor anybody's negative. On many devices the batch is the
    global one: each device multiplies its rows by the vectors of all.
    """
    layout = None if layout is None else outside(layout)
    mask_B = mask_B.astype(jnp.float32)
    nll_B = _one_way(left_BP, right_BP, mask_B, layout)
    if is_symmetric:
        nll_B = (nll_B + _one_way(right_BP, left_BP, mask_B, layout)) / 2
    nll = jnp.sum(nll_B * mask_B)
    return LossSums(nll, nll, jnp.sum(mask_B))


def _one_way(
    left_BP: jax.Array, right_BP: jax.Array, mask_B: jax.Array, layout: Layout | None
) -> jax.Array:
    """-log of the share of its own right vector, of each left one."""
    # Vectors are gathered rather than their products, of which there are far more.
    left_BP = constrain(layout, left_BP, "batch", None)
    right_BP = constrain(layout, right_BP, None, None)
    is_there_B = constrain(layout, mask_B > 0, None)
    # What scales the vectors enlarges what rounding is lost here.
    logits_BB = jnp.matmul(left_BP, right_BP.T, precision=jax.lax.Precision.HIGHEST)
    logits_BB = jnp.where(is_there_B[None, :], logits_BB, _NO_NEGATIVE)
    nll_B, _ = cross_entropy(logits_BB, jnp.arange(len(left_BP)))
    return nll_B
