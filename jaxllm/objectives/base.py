"""What every objective shares: the model as it sees it, and sums that add up over devices."""

from typing import Any, NamedTuple, Protocol

import jax

from jaxllm.parallel.layouts import Layout

Batch = dict[str, Any]


class Model(Protocol):
    """A network in two parts, as only the logits' part is large in the vocabulary."""

    def hidden(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None,
        positions_BT: jax.Array | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Any]:
        """x_BTD, and what routers did: sums over the batch, None without any."""

    def logits(self, x_BTD: jax.Array, *, layout: Layout | None) -> jax.Array:
        """logits_BTV."""

    @property
    def output_module(self) -> Any:
        """The weights behind the logits, a tree."""

    def projection(self, output: Any, x_BTD: jax.Array) -> jax.Array:
        """`logits` of these weights, each position for itself, wherever they lie."""


class LossSums(NamedTuple):
    """Sums, not means, so that microbatches and devices add up to exactly the large batch.

    loss: what is minimised. nll: -log p of the scored targets, in nats. Both float32 scalars.
    num_tokens: how many targets were scored, float32. router: the sums of the model's routers,
    whose loss is a mean over all positions and is not in `loss`; None without routers.
    """

    loss: jax.Array
    nll: jax.Array
    num_tokens: jax.Array
    router: Any = None
