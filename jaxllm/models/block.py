"""One layer of a decoder: attention, then a feed-forward layer or a mixture of experts.

B batch, T length, D embed.
"""

import jax
from flax import nnx

from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.attention import Attention, Cache
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.moe import Moe, MoeConfig
from jaxllm.nn.norm import Norm
from jaxllm.nn.remat import kept
from jaxllm.nn.router import RouterSums
from jaxllm.parallel.layouts import Layout, constrain

# What a layer, or a stack of them, reports besides its activations.
LayerResults = tuple[Cache | None, RouterSums | None]


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), or a mixture of experts in place of mlp."""

    def __init__(self, key: jax.Array, config: DecoderConfig, moe: MoeConfig | None):
        norm_key, attention_key, mlp_key = jax.random.split(key, 3)
        self.dropout = config.dropout
        self.attention_norm = embed_norm(norm_key, config)
        self.attention = Attention(
            attention_key,
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_size,
            rope_theta=config.rope_theta if config.positions == "rope" else None,
            qk_norm_epsilon=config.norm_epsilon if config.has_qk_norm else None,
            use_bias=config.use_bias,
            implementation=config.attention,
            init=config.hidden_init,
            output_init=config.branch_init,
        )
        self.mlp_norm = embed_norm(norm_key, config)
        self.mlp = None if moe is not None else _mlp(mlp_key, config)
        self.moe = None if moe is None else _moe(mlp_key, config, moe)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        cache: Cache | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, LayerResults]:
        """(B, T, D) -> (B, T, D), and this layer's cache and router's sums."""
        branch_BTD, cache = self.attention(
            constrain(layout, self.attention_norm(x_BTD), "batch", "length", "act_embed"),
            positions_BT=positions_BT,
            segment_ids_BT=segment_ids_BT,
            cache=cache,
            layout=layout,
        )
        x_BTD = x_BTD + dropout(
            kept(branch_BTD, "branch"), self.dropout, fold_in(keys_B, 0), layout=layout
        )
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")
        h_BTD = constrain(layout, self.mlp_norm(x_BTD), "batch", "length", "act_embed")
        branch_BTD, router = self._feed_forward(h_BTD, layout)
        x_BTD = x_BTD + dropout(branch_BTD, self.dropout, fold_in(keys_B, 1), layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")
        return x_BTD, (cache, router)

    def _feed_forward(
        self, h_BTD: jax.Array, layout: Layout | None
    ) -> tuple[jax.Array, RouterSums | None]:
        if self.moe is not None:
            return self.moe(h_BTD, layout=layout)
        assert self.mlp is not None
        return self.mlp(h_BTD, layout=layout), None


def _mlp(key: jax.Array, config: DecoderConfig) -> Mlp:
    return Mlp(
        key,
        embed_dim=config.embed_dim,
        mlp_dim=config.mlp_size,
        activation=config.activation,
        is_gated=config.is_gated,
        use_bias=config.use_bias,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def _moe(key: jax.Array, config: DecoderConfig, moe: MoeConfig) -> Moe:
    return moe.build(
        key,
        embed_dim=config.embed_dim,
        mlp_dim=config.mlp_size,
        activation=config.activation,
        is_gated=config.is_gated,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def embed_norm(key: jax.Array, config: DecoderConfig) -> Norm:
    """A norm over the residual stream, of the config's kind."""
    return Norm(
        key,
        axis="embed",
        size=config.embed_dim,
        norm_type=config.norm,
        epsilon=config.norm_epsilon,
        use_bias=config.use_bias and config.norm == "layer",
    )
