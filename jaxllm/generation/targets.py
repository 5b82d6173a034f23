"""What may be written of a target, and where one ends.

V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Targets:
    """What a target's tokens may be.

    Ids from `vocab_size` on are padding of the vocabulary: they have no probability. max_tokens:
    of the longest target, without its start. stop_ids: each of them ends a target. forbidden_ids:
    never written, though they keep their probability. forced_id: the last token of a target that
    has max_tokens, taken as certain; None leaves it to the model.
    """

    vocab_size: int
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    forbidden_ids: tuple[int, ...] = ()
    forced_id: int | None = None

    def tokens_only(self, logits_V: jax.Array) -> jax.Array:
        """Logits (..., V) in float32, -inf where the vocabulary is padded."""
        is_token_V = np.arange(logits_V.shape[-1]) < self.vocab_size
        return jnp.where(is_token_V, logits_V.astype(jnp.float32), -jnp.inf)

    def restricted(self, scores_V: jax.Array, index: jax.Array) -> jax.Array:
        """Scores (..., V) of the token at `index` from 0 on, -inf where it may not be written."""
        ids_V = np.arange(scores_V.shape[-1])
        if self.forbidden_ids:
            scores_V = jnp.where(np.isin(ids_V, self.forbidden_ids), -jnp.inf, scores_V)
        if self.forced_id is not None:
            forced_V = np.where(ids_V == self.forced_id, 0.0, -np.inf).astype(np.float32)
            scores_V = jnp.where(index == self.max_tokens - 1, forced_V, scores_V)
        return scores_V

    def is_stop(self, ids: jax.Array) -> jax.Array:
        """Whether they end a target, in the shape of the ids."""
        return jnp.isin(ids, np.array(self.stop_ids, np.int32))

    def until_stop(self, ids: Sequence[int]) -> list[int]:
        """The target before its stop token."""
        ends = (place for place, token in enumerate(ids) if token in self.stop_ids)
        return list(ids[: next(ends, len(ids))])
