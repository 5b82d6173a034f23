"""An exponential moving average of the weights, for evaluation and for the final model."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from pydantic import Field

from jaxllm.schema import Config


class EmaConfig(Config):
    """The moving average starts at the first weights and remembers about 1 / (1 - decay) steps."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the average kept each step."""

    def init(self, params: Any) -> Any:
        """A float32 copy of the weights; no buffer is shared, so that both can be donated."""
        return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)

    def update(self, ema: Any, params: Any) -> Any:
        """decay * ema + (1 - decay) * params, in float32; both are trees of the same structure."""
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return optax.incremental_update(params, ema, 1.0 - self.decay)
