"""The encoder of images.

B batch, H height, W width, C channels of a pixel, X numbers of a patch, T patches and a class
token, D embed, P projection, L classes.
"""

import jax
import jax.numpy as jnp

from jaxllm.models.block import Rows
from jaxllm.models.heads import Encoded, Pooler, label_head
from jaxllm.models.tower import Tower
from jaxllm.models.vision_config import VisionConfig
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.param import declare, normal
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.stages import outside


class Vision(Tower):
    """Images -> states of a class token and of each patch, and what a head makes of the first."""

    def __init__(self, key: jax.Array, config: VisionConfig):
        tower_key, patch_key, class_key, position_key, head_key = jax.random.split(key, 5)
        super().__init__(
            tower_key, config, scores=config.scores, has_input_norm=config.has_input_norm
        )
        self.config = config
        self.vocab_size = config.vocab_size
        self.patch_embed = Linear(
            patch_key,
            inputs={"patch": config.patch_dim},
            outputs={"embed": config.embed_dim},
            use_bias=config.has_patch_bias,
            init=config.hidden_init,
        )
        # As a weight it is a bias of the first position.
        spec = WeightSpec((config.embed_dim,), ("embed",), "bias", output_dims=(0,))
        self.class_embed = declare(class_key, spec, normal(config.embed_init_std))
        self.position_embed = Embedding(
            position_key,
            axis="positions",
            rows=config.num_positions,
            embed_dim=config.embed_dim,
            std=config.embed_init_std,
        )
        self.pooler = Pooler(head_key, config) if config.head == "pooler" else None
        self.label_head = (
            None
            if config.num_labels is None
            else label_head(head_key, config, axis="embed", num_labels=config.num_labels)
        )

    def __call__(
        self,
        pixels_BHWC: jax.Array,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> Encoded:
        """Images (B, H, W, C) -> states (B, T, D), pooled (B, P) and logits (B, L), by the head.

        The class token comes first, then the patches row by row. keys_B: one random key an example
        for dropout; None is off. ValueError for images of another size.
        """
        layout = None if layout is None else outside(layout)
        platform = jax.default_backend() if layout is None else layout.platform
        dtype = self.config.compute_dtype(platform)
        x_BTD = self.patch_embed(self._patches(pixels_BHWC).astype(dtype))
        batch_size, _, embed_dim = x_BTD.shape
        class_D = self.class_embed[...].astype(dtype)
        first_BTD = jnp.broadcast_to(class_D, (batch_size, 1, embed_dim))
        x_BTD = jnp.concatenate([first_BTD, x_BTD], axis=1)
        positions_BT = jnp.broadcast_to(jnp.arange(x_BTD.shape[1]), x_BTD.shape[:2])
        x_BTD = x_BTD + self.position_embed(positions_BT, dtype=dtype, layout=layout)
        rows = Rows(positions_BT, keys_B=keys_B)
        x_BTD = self.encode(x_BTD, rows, rate=self.config.dropout, layout=layout)
        if self.pooler is not None:
            return Encoded(x_BTD, self.pooler(x_BTD[:, 0]), None)
        if self.label_head is None:
            return Encoded(x_BTD, None, None)
        keys_B = fold_in(keys_B, self.config.num_layers + 1)
        first_BD = dropout(x_BTD[:, 0], self.config.dropout, keys_B)
        return Encoded(x_BTD, None, self.label_head(first_BD))

    def _patches(self, pixels_BHWC: jax.Array) -> jax.Array:
        """(B, H, W, C) -> (B, T - 1, X): the numbers of each patch, row by row, channels last."""
        config = self.config
        size, patch = config.image_size, config.patch_size
        if pixels_BHWC.shape[1:] != (size, size, config.num_channels):
            raise ValueError(
                f"images of (height, width, channels) {pixels_BHWC.shape[1:]}, but the model takes "
                f"{(size, size, config.num_channels)}; resize them"
            )
        side = size // patch
        cut = pixels_BHWC.reshape(-1, side, patch, side, patch, config.num_channels)
        return cut.swapaxes(2, 3).reshape(-1, side * side, config.patch_dim)
