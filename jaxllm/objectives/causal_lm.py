"""Next-token prediction.

B batch, T length, V vocabulary.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from pydantic import NonNegativeFloat

from jaxllm.kernels.cross_entropy import cross_entropy
from jaxllm.objectives.base import Batch, LossSums, Model
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config


class CausalLm(Config):
    """Cross-entropy of the next token, within documents."""

    type: Literal["causal_lm"] = "causal_lm"
    """Kind of objective: the next token."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-normaliser of each position, which keeps logits from drifting."""

    @property
    def batch_fields(self) -> tuple[str, ...]:
        """The fields of a batch that this objective reads."""
        return ("tokens", "targets", "segment_ids", "positions", "loss_mask")

    def __call__(
        self,
        model: Model,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over the targets where loss_mask is on. z-loss: arXiv:2204.02311, section 5."""
        x_BTD, router = model.hidden(
            batch["tokens"],
            segment_ids_BT=batch["segment_ids"],
            positions_BT=batch["positions"],
            keys_B=keys_B,
            layout=layout,
        )
        logits_BTV = model.logits(x_BTD, layout=layout)
        nll_BT, log_normalizer_BT = cross_entropy(logits_BTV, batch["targets"])
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        loss = nll
        if self.z_loss:
            loss = nll + self.z_loss * jnp.sum(jnp.square(log_normalizer_BT) * mask_BT)
        return LossSums(loss, nll, jnp.sum(mask_BT), router)
