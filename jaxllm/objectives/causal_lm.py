"""Next-token prediction.

B batch, T length, V vocabulary.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import NonNegativeFloat, PositiveInt

from jaxllm.kernels.cross_entropy import chunked_cross_entropy, cross_entropy
from jaxllm.objectives.base import Batch, LossSums, Model, Objective
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.stages import outside


class CausalLm(Objective):
    """Cross-entropy of the next token, within documents."""

    type: Literal["causal_lm"] = "causal_lm"
    """Kind of objective: the next token."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared log-normaliser of each position, which keeps logits from drifting."""

    num_chunks: PositiveInt = 1
    """Parts of a row whose logits are computed one after the other; more need less memory."""

    batch_fields: ClassVar[tuple[str, ...]] = (
        "tokens",
        "targets",
        "segment_ids",
        "positions",
        "loss_mask",
    )
    """The fields of a batch that this objective reads."""

    is_likelihood_of_text: ClassVar[bool] = True

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
        nll_BT, log_normalizer_BT = self._scores(model, x_BTD, batch["targets"], layout)
        mask_BT = batch["loss_mask"].astype(jnp.float32)
        nll = jnp.sum(nll_BT * mask_BT)
        loss = nll
        if self.z_loss:
            loss = nll + self.z_loss * jnp.sum(jnp.square(log_normalizer_BT) * mask_BT)
        return LossSums(loss, nll, jnp.sum(mask_BT), router)

    def _scores(
        self, model: Model, x_BTD: jax.Array, targets_BT: jax.Array, layout: Layout | None
    ) -> tuple[jax.Array, jax.Array]:
        if self.num_chunks == 1:
            return cross_entropy(model.logits(x_BTD, layout=layout), targets_BT)
        return chunked_cross_entropy(
            x_BTD,
            model.output_module,
            targets_BT,
            project=model.projection,
            num_chunks=self.num_chunks,
            layout=None if layout is None else outside(layout),
        )
