"""One layer of a transformer: attention, then a feed-forward layer or a mixture of experts.

B batch, T length, D embed, N heads, S positions of another text.
"""

from typing import NamedTuple

import jax
from flax import nnx

from jaxllm.models.block_config import BlockConfig
from jaxllm.nn.attention import Attention, Cache, Memory, Scores
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.latent_attention import LatentConfig
from jaxllm.nn.lora import with_keys
from jaxllm.nn.mlp import Mlp
from jaxllm.nn.moe import Moe, MoeConfig
from jaxllm.nn.norm import Norm
from jaxllm.nn.remat import kept
from jaxllm.nn.router import RouterSums
from jaxllm.parallel.layouts import Layout, constrain

# What a layer, or a stack of them, reports besides its activations.
LayerResults = tuple[Cache | None, RouterSums | None]


class Rows(NamedTuple):
    """What every layer reads of a batch beside the residual stream, all (B, ...).

    memory: what cross-attention looks at. prefix_BS: nonzero for tokens, or slots of a cache, that
    are seen from before them too.
    """

    positions_BT: jax.Array
    segment_ids_BT: jax.Array | None = None
    keys_B: jax.Array | None = None
    memory: Memory | None = None
    prefix_BS: jax.Array | None = None


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), or as the config's options have it."""

    def __init__(
        self,
        key: jax.Array,
        config: BlockConfig,
        *,
        scores: Scores,
        moe: MoeConfig | None = None,
        latent: LatentConfig | None = None,
        is_parallel: bool = False,
        has_memory: bool = False,
    ):
        """has_memory: whether attention to another text comes between the two branches."""
        norm_key, attention_key, mlp_key = jax.random.split(key, 3)
        self.dropout = config.dropout
        self.norm_position = config.norm_position
        self.is_parallel = is_parallel
        has_two = config.norm_position == "both"
        self.attention_norm = embed_norm(norm_key, config)
        self.attention = (
            _attention(attention_key, config, scores)
            if latent is None
            else latent.build(
                attention_key,
                embed_dim=config.embed_dim,
                num_heads=config.num_heads,
                scores=scores,
                init=config.hidden_init,
                output_init=config.branch_init,
            )
        )
        self.attention_branch_norm = embed_norm(norm_key, config) if has_two else None
        self.memory_norm = embed_norm(norm_key, config) if has_memory else None
        self.memory_attention = (
            _attention(jax.random.fold_in(attention_key, 1), config, _of_memory(config))
            if has_memory
            else None
        )
        self.mlp_norm = embed_norm(norm_key, config)
        self.mlp = None if moe is not None else _mlp(mlp_key, config)
        self.moe = None if moe is None else _moe(mlp_key, config, moe)
        self.mlp_branch_norm = embed_norm(norm_key, config) if has_two else None

    def __call__(
        self,
        x_BTD: jax.Array,
        rows: Rows,
        *,
        cache: Cache | None,
        is_windowed: jax.Array | bool = False,
        bias_NTS: jax.Array | None = None,
        projected: Cache | None = None,
        layout: Layout | None,
    ) -> tuple[jax.Array, LayerResults]:
        """(B, T, D) -> (B, T, D), and this layer's cache and router's sums.

        is_windowed: whether this layer has the window. bias_NTS: added to the scores within x.
        projected: what `project_memory` makes of the memory, where it was made already.
        """
        self = with_keys(self, rows.keys_B, layout)
        given = {"bias_NTS": bias_NTS, "prefix_BS": rows.prefix_BS}
        options = {name: value for name, value in given.items() if value is not None}
        branch_BTD, cache = self.attention(
            self._input(self.attention_norm, x_BTD, layout),
            positions_BT=rows.positions_BT,
            segment_ids_BT=rows.segment_ids_BT,
            cache=cache,
            is_windowed=is_windowed,
            layout=layout,
            **options,
        )
        branch_BTD = self.attention.passed_on(branch_BTD, layout)
        branch_BTD = self._result(
            (self.attention_norm, self.attention_branch_norm), kept(branch_BTD, "branch")
        )
        branch_BTD = dropout(branch_BTD, self.dropout, fold_in(rows.keys_B, 0), layout=layout)
        if self.is_parallel:
            h_BTD = self._input(self.mlp_norm, x_BTD, layout)
            x_BTD = x_BTD + branch_BTD
        else:
            x_BTD = self._joined(self.attention_norm, x_BTD, branch_BTD, layout)
            x_BTD = self._look_at_memory(x_BTD, rows, projected, layout)
            h_BTD = self._input(self.mlp_norm, x_BTD, layout)
        branch_BTD, router = self._feed_forward(h_BTD, layout)
        branch_BTD = self._result((self.mlp_norm, self.mlp_branch_norm), branch_BTD)
        branch_BTD = dropout(branch_BTD, self.dropout, fold_in(rows.keys_B, 1), layout=layout)
        return self._joined(self.mlp_norm, x_BTD, branch_BTD, layout), (cache, router)

    def _input(self, norm: Norm, x_BTD: jax.Array, layout: Layout | None) -> jax.Array:
        """What a branch reads."""
        h_BTD = norm(x_BTD) if self.norm_position in ("pre", "both") else x_BTD
        return constrain(layout, h_BTD, "batch", "length", "act_embed")

    def _result(self, norms: tuple[Norm, Norm | None], branch_BTD: jax.Array) -> jax.Array:
        """What a branch adds, by its first norm or, where it has two, by the second."""
        first, second = norms
        if self.norm_position == "branch":
            return first(branch_BTD)
        return branch_BTD if second is None else second(branch_BTD)

    def _joined(
        self, norm: Norm, x_BTD: jax.Array, branch_BTD: jax.Array, layout: Layout | None
    ) -> jax.Array:
        """The residual stream behind a branch."""
        x_BTD = x_BTD + branch_BTD
        if self.norm_position == "post":
            x_BTD = norm(x_BTD)
        return constrain(layout, x_BTD, "batch", "residual_length", "act_embed")

    def project_memory(self, x_BSD: jax.Array) -> Cache:
        """This layer's keys and values of the memory (B, S, D), for decoding token by token."""
        assert self.memory_attention is not None
        return self.memory_attention.projected(x_BSD)

    def _look_at_memory(
        self, x_BTD: jax.Array, rows: Rows, projected: Cache | None, layout: Layout | None
    ) -> jax.Array:
        if self.memory_attention is None or self.memory_norm is None:
            return x_BTD
        assert rows.memory is not None
        branch_BTD, _ = self.memory_attention(
            self._input(self.memory_norm, x_BTD, layout),
            positions_BT=rows.positions_BT,
            segment_ids_BT=None,
            cache=None,
            memory=rows.memory._replace(projected=projected),
            layout=layout,
        )
        branch_BTD = self.memory_attention.passed_on(branch_BTD, layout)
        branch_BTD = self._result((self.memory_norm, None), branch_BTD)
        branch_BTD = dropout(branch_BTD, self.dropout, fold_in(rows.keys_B, 2), layout=layout)
        return self._joined(self.memory_norm, x_BTD, branch_BTD, layout)

    def _feed_forward(
        self, h_BTD: jax.Array, layout: Layout | None
    ) -> tuple[jax.Array, RouterSums | None]:
        if self.moe is not None:
            branch_BTD, router = self.moe(h_BTD, layout=layout)
            return self.moe.passed_on(branch_BTD, layout), router
        assert self.mlp is not None
        return self.mlp.passed_on(self.mlp(h_BTD, layout=layout), layout), None


def _of_memory(config: BlockConfig) -> Scores:
    """Another text has no order relative to this one."""
    return Scores(is_causal=False, scale=config.query_scale, implementation=config.attention)


def _attention(key: jax.Array, config: BlockConfig, scores: Scores) -> Attention:
    return Attention(
        key,
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_kv_heads=config.kv_heads,
        head_dim=config.head_size,
        scores=scores,
        qk_norm=config.qk_norm,
        norm_epsilon=config.norm_epsilon,
        has_centered_scale=config.has_centered_scale,
        bias=config.projection_bias,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def _mlp(key: jax.Array, config: BlockConfig) -> Mlp:
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


def _moe(key: jax.Array, config: BlockConfig, moe: MoeConfig) -> Moe:
    return moe.build(
        key,
        embed_dim=config.embed_dim,
        mlp_dim=config.mlp_size,
        activation=config.activation,
        is_gated=config.is_gated,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def embed_norm(key: jax.Array, config: BlockConfig) -> Norm:
    """A norm over the residual stream, of the config's kind."""
    return Norm(
        key,
        axis="embed",
        size=config.embed_dim,
        norm_type=config.norm,
        epsilon=config.norm_epsilon,
        use_bias=config.use_bias and config.norm == "layer",
        has_centered_scale=config.has_centered_scale,
    )
