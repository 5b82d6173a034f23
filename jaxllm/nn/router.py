"""Which experts a token goes to, with which weights, and how evenly they are loaded.

B batch, T length, D embed, E experts, K chosen experts of a token, L layers.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.nn.param import Initializer, declare, zeros
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, constrain

Scoring = Literal["softmax", "sigmoid"]


class RouterSums(NamedTuple):
    """What a layer's router did, float32, summed over the positions of the batch.

    Microbatches, devices and pipeline stages therefore add up to exactly the large batch. A stack
    of layers has a leading dimension L.

    num_positions: how many. loads_E: how often each expert was chosen. balance: one for an even
    load (see `balance_loss`). z: the squared log-normaliser. entropy: of the scores over the
    experts, in nats. loss: what is minimised, the weighted balance and z. No gradient but that of
    balance, z and loss is defined.
    """

    num_positions: jax.Array
    loads_E: jax.Array
    balance: jax.Array
    z: jax.Array
    entropy: jax.Array
    loss: jax.Array


class Routing(NamedTuple):
    """The experts chosen for each token (int32), their weights (float32), and the statistics."""

    choice_BTK: jax.Array
    weights_BTK: jax.Array
    sums: RouterSums


class Router(nnx.Module):
    """Scores every expert for every token and chooses the best `top_k`.

    Everything is float32 (and full-precision matmuls), as rounding would flip choices.
    """

    def __init__(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        num_experts: int,
        top_k: int,
        num_groups: int = 1,
        top_groups: int = 1,
        scoring: Scoring,
        is_normalized: bool,
        scale: float,
        balance_weight: float,
        z_weight: float,
        has_bias: bool,
        init: Initializer,
    ):
        self.top_k = top_k
        self.num_groups = num_groups
        self.top_groups = top_groups
        self.scoring = scoring
        self.is_normalized = is_normalized
        self.scale = scale
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        shape = (embed_dim, num_experts)
        kernel = WeightSpec(shape, ("embed", "routes"), "hidden", (0,), (1,))
        self.kernel = declare(key, kernel, init)
        # It decides the choice alone, so its gradient is zero and every optimizer leaves it where
        # `rebalance` puts it: steps follow gradients, and biases do not decay.
        bias = WeightSpec((num_experts,), ("routes",), "bias", output_dims=(0,))
        self.bias = declare(key, bias, zeros) if has_bias else None

    def __call__(self, x_BTD: jax.Array, *, layout: Layout | None) -> Routing:
        """(B, T, D) -> the choice of each token. arXiv:2412.19437, section 2.1.2, with sigmoid."""
        logits_BTE = jnp.matmul(
            x_BTD.astype(jnp.float32), self.kernel[...], precision=jax.lax.Precision.HIGHEST
        )
        logits_BTE = constrain(layout, logits_BTE, "batch", "length", None)
        if self.scoring == "softmax":
            scores_BTE = shares_BTE = jax.nn.softmax(logits_BTE)
        else:
            scores_BTE = jax.nn.sigmoid(logits_BTE)
            shares_BTE = scores_BTE / (jnp.sum(scores_BTE, axis=-1, keepdims=True) + 1e-20)
        preferred_BTE = scores_BTE if self.bias is None else scores_BTE + self.bias[...]
        preferred_BTE = self._in_best_groups(jax.lax.stop_gradient(preferred_BTE))
        choice_BTK = jax.lax.top_k(preferred_BTE, self.top_k)[1]
        is_chosen_BTKE = choice_BTK[..., None] == jnp.arange(scores_BTE.shape[-1])
        # A masked sum rather than a gather, whose transpose would be a scatter.
        weights_BTK = jnp.sum(jnp.where(is_chosen_BTKE, scores_BTE[:, :, None], 0.0), axis=-1)
        if self.is_normalized:
            weights_BTK /= jnp.sum(weights_BTK, axis=-1, keepdims=True) + 1e-20
        loads_BE = jnp.sum(is_chosen_BTKE, axis=(1, 2), dtype=jnp.float32)
        sums = self._sums(logits_BTE, shares_BTE, loads_BE)
        return Routing(choice_BTK, self.scale * weights_BTK, sums)

    def _in_best_groups(self, preferred_BTE: jax.Array) -> jax.Array:
        """The scores that may be chosen, -inf outside of the groups whose best two are largest.

        arXiv:2412.19437, section 2.1.2, "node-limited routing".
        """
        if self.top_groups == self.num_groups:
            return preferred_BTE
        grouped_BTGE = preferred_BTE.reshape(*preferred_BTE.shape[:2], self.num_groups, -1)
        best = min(2, grouped_BTGE.shape[-1])
        value_BTG = jnp.sum(jax.lax.top_k(grouped_BTGE, best)[0], axis=-1)
        chosen_BTK = jax.lax.top_k(value_BTG, self.top_groups)[1]
        is_chosen_BTG = jnp.any(chosen_BTK[..., None] == jnp.arange(self.num_groups), axis=2)
        allowed_BTGE = jnp.where(is_chosen_BTG[..., None], grouped_BTGE, -jnp.inf)
        return allowed_BTGE.reshape(preferred_BTE.shape)

    def _sums(
        self, logits_BTE: jax.Array, shares_BTE: jax.Array, loads_BE: jax.Array
    ) -> RouterSums:
        balance = balance_loss(shares_BTE, loads_BE, top_k=self.top_k)
        # arXiv:2202.08906, section 3.2.
        z = jnp.sum(jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)))
        return RouterSums(
            num_positions=jnp.float32(logits_BTE.shape[0] * logits_BTE.shape[1]),
            loads_E=jnp.sum(loads_BE, axis=0),
            balance=balance,
            z=z,
            entropy=jax.lax.stop_gradient(jnp.sum(jax.scipy.special.entr(shares_BTE))),
            loss=self.balance_weight * balance + self.z_weight * z,
        )


def balance_loss(shares_BTE: jax.Array, loads_BE: jax.Array, *, top_k: int) -> jax.Array:
    """E * sum_e (share of choices of e) * (mean score of e), times T, summed over the rows.

    The loss of arXiv:2101.03961, equation 4, for any top_k: 1 a position when the load is even.
    Its groups (arXiv:2006.16668) are the rows of the batch. A product of two means over any
    larger group would not add up over microbatches; the groups being rows, the loss is the same
    however the batch is cut.
    """
    num_experts, length = shares_BTE.shape[2], shares_BTE.shape[1]
    scores_BE = jnp.sum(shares_BTE, axis=1)
    return num_experts / (top_k * length) * jnp.sum(loads_BE * scores_BE)


def rebalanced(bias_LE: jax.Array, loads_LE: jax.Array, *, rate: float) -> jax.Array:
    """The selection biases after a step: `rate` up where an expert had less than its share.

    Balancing without a gradient, arXiv:2408.15664, algorithm 1.
    """
    mean_L1 = jnp.mean(loads_LE, axis=-1, keepdims=True)
    return bias_LE + rate * jnp.sign(mean_L1 - loads_LE).reshape(bias_LE.shape)


def router_metrics(sums: RouterSums) -> dict[str, jax.Array]:
    """Float32 scalars of a stack's sums.

    router_loss: what the routers add to the objective, summed over layers. Means over positions
    and layers: router_balance_loss (1 is even), router_z_loss and router_entropy (nats).
    router_max_load, router_min_load: of the most and least loaded expert of any layer, in
    shares of an even load.
    """
    loads_LE = sums.loads_E / jnp.mean(sums.loads_E, axis=-1, keepdims=True)
    return {
        "router_loss": jnp.sum(sums.loss / sums.num_positions),
        "router_balance_loss": jnp.mean(sums.balance / sums.num_positions),
        "router_z_loss": jnp.mean(sums.z / sums.num_positions),
        "router_entropy": jnp.mean(sums.entropy / sums.num_positions),
        "router_max_load": jnp.max(loads_LE),
        "router_min_load": jnp.min(loads_LE),
    }
