"""How the next token is drawn from logits.

B rows, V vocabulary.
"""

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from jaxllm.schema import Config


class Sampling(Config):
    """Temperature, then top-k, then nucleus (arXiv:1904.09751). The filters combine."""

    temperature: NonNegativeFloat = 0.8
    """Logits are divided by it; 0 takes the likeliest token."""
    top_k: PositiveInt | None = None
    """Only this many of the likeliest tokens, and ties with the last, may be drawn; null is all."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Only the likeliest tokens that hold this much probability together may be drawn."""
    seed: NonNegativeInt = 0
    """Seed of the draws; the same seed and prompts give the same texts."""
    max_tokens: PositiveInt = 128
    """Longest continuation, in tokens."""

    def filtered(self, logits_BV: jax.Array) -> jax.Array:
        """Logits in float32 after temperature (> 0), -inf where a token may not be drawn."""
        logits_BV = logits_BV.astype(jnp.float32) / self.temperature
        if self.top_k is not None and self.top_k < logits_BV.shape[-1]:
            kth_B1 = jax.lax.top_k(logits_BV, self.top_k)[0][:, -1:]
            logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
        if self.top_p < 1.0:
            sorted_BV = -jnp.sort(-logits_BV, axis=-1)
            probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
            # A token stays while the likelier ones before it hold less than top_p.
            is_kept_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV < self.top_p
            least_B1 = jnp.min(jnp.where(is_kept_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
            logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
        return logits_BV

    def draw(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array:
        """One token id a row, int32, each row from its own key."""
        if self.temperature == 0.0:
            return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
        draw = jax.vmap(jax.random.categorical)
        return draw(keys_B, self.filtered(logits_BV)).astype(jnp.int32)


class SampleConfig(Config):
    """Text generated while training, for eyes; always at the end of a run."""

    every: PositiveInt | None = None
    """Steps between samples; null generates only at the end."""
    prompts: tuple[str, ...] = Field(("",), min_length=1)
    """Beginnings to continue; an empty one starts a new document."""
    sampling: Sampling = Sampling()
    """How tokens are drawn."""
