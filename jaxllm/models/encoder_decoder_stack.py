"""One half of an encoder-decoder: equal blocks, their shared biases by distance, a last norm.

B batch, T length, S keys, D embed, N query heads, K key/value heads, H head, L layers.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.block import Block, Rows, embed_norm
from jaxllm.models.block_config import BlockConfig
from jaxllm.nn.attention import Cache
from jaxllm.nn.dropout import fold_in
from jaxllm.nn.param import normal
from jaxllm.nn.relative_bias import RelativeBias
from jaxllm.nn.stack import Stack
from jaxllm.parallel.layouts import Layout, constrain


class DecodingCache(NamedTuple):
    """Keys and values of every layer of the decoder.

    own: of the target so far, (L, B, T, K, H), T slots. memory: of the source, (L, B, S, K, H),
    made once: made anew for each token they would cost more than all the rest.
    """

    own: Cache
    memory: Cache


class Half(nnx.Module):
    """Embeddings -> what the encoder made of them, or the decoder, which looks at a memory."""

    def __init__(
        self,
        key: jax.Array,
        config: BlockConfig,
        *,
        is_decoder: bool,
        num_buckets: int | None,
        max_distance: int,
    ):
        """num_buckets: None is without biases by distance."""
        stack_key, bias_key, norm_key = jax.random.split(key, 3)
        scores = replace(config.scores, is_causal=is_decoder)
        self.bias = (
            None
            if num_buckets is None
            else RelativeBias(
                bias_key,
                num_heads=config.num_heads,
                num_buckets=num_buckets,
                max_distance=max_distance,
                is_bidirectional=not is_decoder,
                init=normal(config.embed_init_std),
            )
        )
        self.blocks = Stack(
            stack_key,
            lambda layer_key: Block(layer_key, config, scores=scores, has_memory=is_decoder),
            num_layers=config.num_layers,
            remat=config.remat,
            offload=config.offload,
            is_scanned=config.is_scanned,
        )
        # Blocks that normalise behind each branch end in a norm already.
        self.norm = None if config.norm_position == "post" else embed_norm(norm_key, config)

    def __call__(
        self,
        x_BTD: jax.Array,
        rows: Rows,
        positions_T: jax.Array,
        *,
        cache: DecodingCache | None = None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Cache | None]:
        """(B, T, D) at these positions -> (B, T, D), and the cache's own part with it in it.

        ValueError for biases by distance in a pipeline.
        """
        if self.bias is not None and layout is not None and layout.pipeline is not None:
            # It hands on what is cut by rows; these have none.
            raise ValueError(
                f"parallel.stage={layout.axis_size('stage')}: a pipeline cannot share biases of "
                "model.positions=relative; set parallel.stage=1 or model.positions=sinusoidal"
            )
        num_keys = x_BTD.shape[1] if cache is None else cache.own.keys_BSKH.shape[2]
        bias_NTS = None if self.bias is None else self.bias(positions_T, num_keys, layout=layout)

        def body(
            block: Block, x_BTD: jax.Array, xs: tuple, rows: Rows, layout: Layout | None
        ) -> tuple[jax.Array, Cache | None]:
            index, layer_cache = xs
            own, projected = (None, None) if layer_cache is None else layer_cache
            x_BTD, (own, _) = block(
                x_BTD,
                rows._replace(keys_B=fold_in(rows.keys_B, index)),
                cache=own,
                bias_NTS=bias_NTS,
                projected=projected,
                layout=layout,
            )
            return x_BTD, own

        xs = (jnp.arange(self.blocks.num_layers), cache)
        x_BTD, own = self.blocks(body, x_BTD, xs, rows=rows, layout=layout)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return constrain(layout, x_BTD, "batch", "length", "act_embed"), own

    def project(self, x_BSD: jax.Array) -> Cache:
        """Every layer's keys and values of a memory, (L, B, S, K, H)."""

        def body(
            block: Block, x_BSD: jax.Array, xs: None, rows: None, layout: Layout | None
        ) -> tuple[jax.Array, Cache]:
            return x_BSD, block.project_memory(x_BSD)

        return self.blocks(body, x_BSD, None)[1]
