"""The decoder-only transformer.

B batch, T length, S cache slots, D embed, K key/value heads, H head, L layers, V vocabulary.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.block import Block, LayerResults, Rows, embed_norm
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.attention import Cache
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.moe import MoeConfig
from jaxllm.nn.param import Nested, zeros
from jaxllm.nn.router import RouterSums, rebalanced
from jaxllm.nn.stack import Stack
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.stages import outside


class Decoder(nnx.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, key: jax.Array, config: DecoderConfig, vocab_size: int):
        embed_key, position_key, stack_key, norm_key, out_key = jax.random.split(key, 5)
        self.config = config
        self.vocab_size = vocab_size
        embed_dim, std = config.embed_dim, config.embed_init_std
        self.embed = Embedding(
            embed_key, axis="vocab", rows=vocab_size, embed_dim=embed_dim, std=std
        )
        self.position_embed = (
            Embedding(
                position_key,
                axis="positions",
                rows=config.max_length,
                embed_dim=embed_dim,
                std=std,
            )
            if config.positions == "learned"
            else None
        )
        self.dense_blocks = (
            _stack(jax.random.fold_in(stack_key, 0), config, None, config.num_dense_layers)
            if config.num_dense_layers
            else None
        )
        self.blocks = _stack(
            stack_key, config, config.moe, config.num_layers - config.num_dense_layers
        )
        self.norm = None if config.norm_position == "post" else embed_norm(norm_key, config)
        self.out = (
            None
            if config.is_tied
            else Linear(
                out_key,
                inputs={"embed": embed_dim},
                outputs={"vocab": vocab_size},
                use_bias=False,
                init=zeros if config.output_init == "zero" else config.hidden_init,
                role="output",
            )
        )

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """(B, T) ids -> (B, T, V) logits in the compute dtype.

        segment_ids_BT: packed documents, which never see each other; None is one document a row.
        positions_BT: default 0..T-1. keys_B: one random key an example for dropout; None is off.
        """
        x_BTD, _ = self.hidden(
            tokens_BT,
            segment_ids_BT=segment_ids_BT,
            positions_BT=positions_BT,
            keys_B=keys_B,
            layout=layout,
        )
        return self.logits(x_BTD, layout=layout)

    def hidden(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        prefix_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> tuple[jax.Array, RouterSums | None]:
        """As `__call__`, up to what `logits` takes: (B, T, D), and the routers' sums, if any.

        The sums are stacked over the layers with experts. prefix_BT: nonzero for tokens that are
        seen by those before them too, within their document; default none.
        """
        rows = _rows(tokens_BT, positions_BT, segment_ids_BT, keys_B, prefix_BT)
        x_BTD, (_, router) = self._blocks(tokens_BT, rows, None, layout)
        return x_BTD, router

    def forward(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        prefix_BS: jax.Array | None = None,
        cache: Cache | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `__call__`, with a cache of every layer (L, B, S, K, H) read and extended.

        prefix_BS: nonzero for slots of the cache that are seen by tokens before them too.
        """
        rows = _rows(tokens_BT, positions_BT, segment_ids_BT, keys_B, prefix_BS)
        x_BTD, (cache, _) = self._blocks(tokens_BT, rows, cache, layout)
        return self.logits(x_BTD, layout=layout), cache

    def _blocks(
        self,
        tokens_BT: jax.Array,
        rows: Rows,
        cache: Cache | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, LayerResults]:
        """(B, T) ids -> (B, T, D) behind the last norm, the cache and the routers' sums."""
        layout = None if layout is None else outside(layout)
        platform = jax.default_backend() if layout is None else layout.platform
        dtype = self.config.compute_dtype(platform)
        x_BTD = self.embed(tokens_BT, dtype=dtype, layout=layout)
        if self.config.is_embed_scaled:
            x_BTD = x_BTD * jnp.asarray(math.sqrt(self.config.embed_dim), dtype)
        if self.position_embed is not None:
            x_BTD = x_BTD + self.position_embed(rows.positions_BT, dtype=dtype, layout=layout)
        keys = fold_in(rows.keys_B, self.config.num_layers)
        x_BTD = dropout(x_BTD, self.config.dropout, keys, layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")

        windowed = self.config.windowed_layers

        def body(
            block: Block, x_BTD: jax.Array, xs: tuple, rows: Rows, layout: Layout | None
        ) -> tuple[jax.Array, LayerResults]:
            index, is_windowed, layer_cache = xs
            return block(
                x_BTD,
                rows._replace(keys_B=fold_in(rows.keys_B, index)),
                cache=layer_cache,
                is_windowed=windowed[0] if is_windowed is None else is_windowed,
                layout=layout,
            )

        def run(
            stack: Stack, x_BTD: jax.Array, first: int, cache: Cache | None
        ) -> tuple[jax.Array, LayerResults]:
            last = first + stack.num_layers
            # Where all layers are of one kind, it is part of the program and not of its data.
            is_mixed = len(set(windowed)) > 1
            kinds = jnp.asarray(windowed[first:last]) if is_mixed else None
            return stack(
                body,
                x_BTD,
                (jnp.arange(first, last), kinds, cache),
                rows=rows,
                layout=layout,
            )

        num_dense = self.config.num_dense_layers
        if self.dense_blocks is None:
            x_BTD, (cache, router) = run(self.blocks, x_BTD, 0, cache)
        else:
            dense_cache, moe_cache = (
                jax.tree.map(lambda c, part=part: c[part], cache)
                for part in (slice(num_dense), slice(num_dense, None))
            )
            x_BTD, (dense_cache, _) = run(self.dense_blocks, x_BTD, 0, dense_cache)
            x_BTD, (moe_cache, router) = run(self.blocks, x_BTD, num_dense, moe_cache)
            cache = jax.tree.map(lambda *parts: jnp.concatenate(parts), dense_cache, moe_cache)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return constrain(layout, x_BTD, "batch", "length", "act_embed"), (cache, router)

    def logits(self, x_BTD: jax.Array, *, layout: Layout | None = None) -> jax.Array:
        """(B, T, D), as `hidden` gives it -> (B, T, V)."""
        layout = None if layout is None else outside(layout)
        logits_BTV = self.projection(self.output_module, x_BTD)
        return constrain(layout, logits_BTV, "batch", "length", "act_vocab")

    @property
    def output_module(self) -> Embedding | Linear:
        """What projects to the vocabulary: the embedding where it is tied."""
        return self.embed if self.out is None else self.out

    def projection(self, output: Any, x_BTD: jax.Array) -> jax.Array:
        """(b, t, D) -> logits (b, t, V) by `output_module` or by that with other weights."""
        logits_BTV = output.attend(x_BTD) if self.out is None else output(x_BTD)
        cap = self.config.logit_soft_cap
        return logits_BTV if cap is None else cap * jnp.tanh(logits_BTV / cap)

    def rebalance(self, params: Nested, sums: RouterSums) -> Nested:
        """The weights after a step, with the routers' biases moved by the loads of its batch."""
        rate = None if self.config.moe is None else self.config.moe.bias_rate
        if not rate:
            return params

        def move(path: tuple, leaf: jax.Array) -> jax.Array:
            if [key.key for key in path] != ["blocks", "layers", "moe", "router", "bias"]:
                return leaf
            return rebalanced(leaf, sums.loads_E, rate=rate)

        return jax.tree.map_with_path(move, params)

    def empty_cache(self, batch_size: int, num_slots: int) -> Cache:
        """A cache of zeros for `batch_size` rows of up to `num_slots` tokens each."""
        config = self.config
        shape = (config.num_layers, batch_size, num_slots)
        keys, values = (config.kv_heads, config.head_size), (config.kv_heads, config.head_size)
        if config.latent is not None:
            keys, values = (1, config.latent.rope_dim), (1, config.latent.kv_rank)
        dtype = config.compute_dtype(jax.default_backend())
        return Cache(jnp.zeros((*shape, *keys), dtype), jnp.zeros((*shape, *values), dtype))


def _rows(
    tokens_BT: jax.Array,
    positions_BT: jax.Array | None,
    segment_ids_BT: jax.Array | None,
    keys_B: jax.Array | None,
    prefix_BS: jax.Array | None,
) -> Rows:
    """What every layer reads; positions are 0..T-1 by default."""
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return Rows(positions_BT, segment_ids_BT, keys_B, prefix_BS=prefix_BS)


def _stack(key: jax.Array, config: DecoderConfig, moe: MoeConfig | None, num_layers: int) -> Stack:
    return Stack(
        key,
        lambda layer_key: Block(
            layer_key,
            config,
            scores=config.scores,
            moe=moe,
            latent=config.latent,
            is_parallel=config.is_parallel,
        ),
        num_layers=num_layers,
        remat=config.remat,
        offload=config.offload,
        is_scanned=config.is_scanned,
    )
