"""A mixture of experts in place of the feed-forward block.

B batch, T length, D embed, E experts, L layers.
"""

import jax
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from jaxllm.nn.branch import Branch
from jaxllm.nn.experts import Experts
from jaxllm.nn.mlp import Activation, Mlp
from jaxllm.nn.param import Initializer
from jaxllm.nn.router import Router, RouterSums, Scoring
from jaxllm.parallel.layouts import Layout
from jaxllm.schema import Config


class MoeConfig(Config):
    """A mixture of experts: every token passes the few that its router scores best.

    No token is dropped. The defaults route as Mixtral does (arXiv:2401.04088).
    """

    num_experts: PositiveInt
    """Number of experts in a layer to choose from, a multiple of parallel.expert."""
    top_k: PositiveInt = 2
    """Number of experts that a token passes, at most num_experts."""
    expert_dim: PositiveInt | None = None
    """Hidden width of one expert; null is the width of the dense feed-forward layer."""
    num_shared_experts: NonNegativeInt = 0
    """Experts that every token passes beside its own, computed as one that much wider."""
    num_groups: PositiveInt = 1
    """Groups of as many neighbouring experts, of which a token chooses first (DeepSeek-V3)."""
    top_groups: PositiveInt | None = None
    """Groups that a token chooses its experts from; null is all."""
    num_dense_layers: NonNegativeInt = 0
    """Number of first layers that keep a dense feed-forward layer."""
    scoring: Scoring = "softmax"
    """Scores from the router's logits: softmax over all experts, or the sigmoid of each."""
    is_normalized: bool = True
    """Whether the scores of a token's chosen experts are divided by their sum."""
    score_scale: PositiveFloat = 1.0
    """Factor of the scores, after they are normalised, by which experts' results are weighted."""
    balance_loss: NonNegativeFloat = 0.01
    """Weight, in each layer's loss a position, of uneven loads in a row; 1 is an even load."""
    z_loss: NonNegativeFloat = 0.0
    """Weight, in each layer's loss a position, of the router's squared log-normaliser."""
    bias_rate: NonNegativeFloat | None = None
    """Step by which a bias on each score, for the choice alone, evens loads; null has no bias."""

    @model_validator(mode="after")
    def _choice_is_possible(self) -> "MoeConfig":
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} of num_experts={self.num_experts} cannot be chosen; lower "
                "top_k or raise num_experts"
            )
        groups, size = self.num_groups, self.num_experts // self.num_groups
        chosen = self.top_groups or groups
        if self.num_experts % groups or chosen > groups or chosen * size < self.top_k:
            raise ValueError(
                f"top_groups={chosen} of num_groups={groups} with num_experts={self.num_experts} "
                f"and top_k={self.top_k} cannot be chosen; groups divide the experts, and those "
                "chosen have top_k of them"
            )
        return self

    def build(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        mlp_dim: int,
        activation: Activation,
        is_gated: bool,
        init: Initializer,
        output_init: Initializer,
    ) -> "Moe":
        """A new layer. mlp_dim: width of a dense feed-forward layer in its place."""
        router_key, experts_key, shared_key = jax.random.split(key, 3)
        expert_dim = self.expert_dim or mlp_dim
        router = Router(
            router_key,
            embed_dim=embed_dim,
            num_experts=self.num_experts,
            top_k=self.top_k,
            num_groups=self.num_groups,
            top_groups=self.top_groups or self.num_groups,
            scoring=self.scoring,
            is_normalized=self.is_normalized,
            scale=self.score_scale,
            balance_weight=self.balance_loss,
            z_weight=self.z_loss,
            has_bias=self.bias_rate is not None,
            init=init,
        )
        experts = Experts(
            experts_key,
            num_experts=self.num_experts,
            embed_dim=embed_dim,
            expert_dim=expert_dim,
            activation=activation,
            is_gated=is_gated,
            init=init,
            output_init=output_init,
        )
        shared = None
        if self.num_shared_experts:
            shared = Mlp(
                shared_key,
                embed_dim=embed_dim,
                mlp_dim=self.num_shared_experts * expert_dim,
                activation=activation,
                is_gated=is_gated,
                use_bias=False,
                init=init,
                output_init=output_init,
            )
        return Moe(router, experts, shared)


class Moe(Branch):
    """The weighted sum of the chosen experts (arXiv:1701.06538), and of the shared ones."""

    def __init__(self, router: Router, experts: Experts, shared: Mlp | None):
        self.router = router
        self.experts = experts
        self.shared = shared

    def __call__(self, x_BTD: jax.Array, *, layout: Layout | None) -> tuple[jax.Array, RouterSums]:
        """(B, T, D) -> (B, T, D), and what the router did."""
        routing = self.router(x_BTD, layout=layout)
        y_BTD = self.experts(x_BTD, routing.choice_BTK, routing.weights_BTK, layout=layout)
        if self.shared is not None:
            y_BTD = y_BTD + self.shared(x_BTD, layout=layout)
        return y_BTD, routing.sums
