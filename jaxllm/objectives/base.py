"""What every objective shares: the model as a callable, and sums that add up over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Called as model(tokens_BT, segment_ids_BT=, positions_BT=, keys_B=, layout=) -> logits_BTV.
Model = Callable[..., jax.Array]
Batch = dict[str, Any]


class LossSums(NamedTuple):
    """Sums, not means, so that microbatches and devices add up to exactly the large batch.

    loss: what is minimised. nll: -log p of the scored targets, in nats. Both float32 scalars.
    num_tokens: how many targets were scored, float32.
    """

    loss: jax.Array
    nll: jax.Array
    num_tokens: jax.Array
