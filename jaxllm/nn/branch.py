"""What the parts of a block have in common whose results the residual stream gets.

B batch, T length, D embed.
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxllm.parallel.layouts import Layout

if TYPE_CHECKING:
    from jaxllm.nn.bottleneck import Bottleneck


class Branch(nnx.Module):
    """Attention, or a feed-forward layer, or a mixture of experts.

    bottleneck: a small network that is learned behind it, see `adapters`.
    """

    bottleneck: "Bottleneck | None" = None

    def passed_on(self, y_BTD: jax.Array, layout: Layout | None) -> jax.Array:
        """What the block gets of its result."""
        return y_BTD if self.bottleneck is None else self.bottleneck(y_BTD, layout=layout)
