"""What encoders of texts and of images have in common.

B batch, T length, D embed.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.block import Block, Rows, embed_norm
from jaxllm.models.block_config import BlockConfig
from jaxllm.nn.attention import Scores
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.stack import Stack
from jaxllm.parallel.layouts import Layout, constrain


class Tower(nnx.Module):
    """Embeddings, maybe normalised, through equal blocks and a last norm."""

    def __init__(
        self, key: jax.Array, config: BlockConfig, *, scores: Scores, has_input_norm: bool
    ):
        """has_input_norm: whether there is a norm in front of the blocks."""
        input_key, stack_key, norm_key = jax.random.split(key, 3)
        self.input_norm = embed_norm(input_key, config) if has_input_norm else None
        self.blocks = Stack(
            stack_key,
            lambda layer_key: Block(layer_key, config, scores=scores),
            num_layers=config.num_layers,
            remat=config.remat,
            offload=config.offload,
            is_scanned=config.is_scanned,
        )
        # Blocks that normalise behind each branch end in a norm already.
        self.norm = None if config.norm_position == "post" else embed_norm(norm_key, config)

    def encode(
        self, x_BTD: jax.Array, rows: Rows, *, rate: float, layout: Layout | None
    ) -> jax.Array:
        """Embeddings (B, T, D) -> (B, T, D) behind the last norm. rate: dropout of embeddings."""
        if self.input_norm is not None:
            x_BTD = self.input_norm(x_BTD)
        num_layers = self.blocks.num_layers
        x_BTD = dropout(x_BTD, rate, fold_in(rows.keys_B, num_layers), layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")

        def body(
            block: Block, x_BTD: jax.Array, index: jax.Array, rows: Rows, layout: Layout | None
        ) -> tuple[jax.Array, None]:
            rows = rows._replace(keys_B=fold_in(rows.keys_B, index))
            x_BTD, _ = block(x_BTD, rows, cache=None, layout=layout)
            return x_BTD, None

        x_BTD, _ = self.blocks(body, x_BTD, jnp.arange(num_layers), rows=rows, layout=layout)
        if self.norm is not None:
            x_BTD = self.norm(x_BTD)
        return constrain(layout, x_BTD, "batch", "length", "act_embed")
