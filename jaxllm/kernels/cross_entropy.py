"""Token cross-entropy without a gather, of all logits at once or of some positions at a time.

B batch, T length, D embed, V vocabulary, C chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.kernels.per_device import per_device
from jaxllm.parallel.layouts import Layout, constrain


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(-log p of each target, log-sum-exp of each position) in nats, both float32 (B, T).

    The target's logit is a masked sum rather than a gather: it fuses with the log-sum-exp, and
    stays local where the vocabulary is sharded.
    """
    logits_BTV = logits_BTV.astype(jnp.float32)  # bf16 sums over a vocabulary lose digits
    log_normalizer_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    is_target_BTV = targets_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
    target_logit_BT = jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1)
    return log_normalizer_BT - target_logit_BT, log_normalizer_BT


def chunked_cross_entropy(
    x_BTD: jax.Array,
    weights: Any,
    targets_BT: jax.Array,
    *,
    project: Callable[[Any, jax.Array], jax.Array],
    num_chunks: int,
    layout: Layout | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`cross_entropy(project(weights, x_BTD), targets_BT)`, holding few logits at once.

    project: (weights, (b, t, D)) -> logits (b, t, V), each position for itself, of rows and
    positions of one device; it must not constrain these dimensions. Logits of a chunk, T / C
    positions, are computed one chunk after the other, in the backward pass once more. The
    weights, a tree of arrays, are gathered once, in the precision of x; their gradient is summed
    over chunks in float32 on each device, and over devices once.
    ValueError unless C divides the positions of a device.
    """
    pieces = num_chunks * (1 if layout is None else layout.degree("length"))
    if targets_BT.shape[1] % pieces:
        raise ValueError(
            f"{targets_BT.shape[1]} positions do not divide in {num_chunks} chunks on every device "
            f"of parallel.context; make data.sequence_length a multiple of {pieces}"
        )

    def of_device(x_BTD: jax.Array, weights: Any, targets_BT: jax.Array) -> tuple:
        # Exact, and undone by the projection; it is the gradient that float32 is for.
        wide = jax.tree.map(lambda w: w.astype(jnp.float32), weights)

        @jax.checkpoint
        def chunk(_: None, part: tuple[jax.Array, jax.Array]) -> tuple[None, tuple]:
            x_BTD, targets_BT = part
            narrow = jax.tree.map(lambda w: w.astype(x_BTD.dtype), wide)
            return None, cross_entropy(project(narrow, x_BTD), targets_BT)

        parts = (_chunks(x_BTD, num_chunks), _chunks(targets_BT, num_chunks))
        _, results_CBT = jax.lax.scan(chunk, None, parts)
        return tuple(
            jnp.moveaxis(result_CBT, 0, 1).reshape(targets_BT.shape) for result_CBT in results_CBT
        )

    weights = jax.tree.map(lambda w: w.astype(x_BTD.dtype), weights)
    if layout is None:
        return of_device(x_BTD, weights, targets_BT)
    positions = ("batch", "length")
    x_BTD = constrain(layout, x_BTD, *positions, "act_embed")
    return per_device(
        of_device,
        layout,
        in_axes=((*positions, "act_embed"), (), positions),
        out_axes=[positions, positions],
        along=positions,
    )(x_BTD, weights, targets_BT)


def _chunks(x_BT: jax.Array, num_chunks: int) -> jax.Array:
    """(B, T, ...) -> (C, B, T / C, ...), a scan over consecutive positions."""
    B, T = x_BT.shape[:2]
    return jnp.moveaxis(x_BT.reshape(B, num_chunks, T // num_chunks, *x_BT.shape[2:]), 1, 0)


def cross_entropy_reference(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p of each target by the definition, for tests."""
    log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)[..., 0]
