"""Token cross-entropy without a gather.

B batch, T length, V vocabulary.
"""

import jax
import jax.numpy as jnp


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


def cross_entropy_reference(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p of each target by the definition, for tests."""
    log_probs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)[..., 0]
