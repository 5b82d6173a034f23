"""Two encoders whose results can be compared: one of texts, one of images.

B texts, I images, T length, D embed, P projection, H height, W width, C channels of a pixel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.decoder import Decoder
from jaxllm.models.heads import projection
from jaxllm.models.two_towers_config import TwoTowersConfig
from jaxllm.models.vision import Vision
from jaxllm.nn.param import declare
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout


class Compared(NamedTuple):
    """Texts and images as vectors of length 1, and how similar each pair is; float32."""

    texts_BP: jax.Array
    images_IP: jax.Array
    logits_IB: jax.Array


class TwoTowers(nnx.Module):
    """Texts and images -> vectors of one space (arXiv:2103.00020, section 2.4)."""

    def __init__(self, key: jax.Array, config: TwoTowersConfig, vocab_size: int):
        text_key, vision_key, *keys = jax.random.split(key, 4)
        self.config = config
        self.vocab_size = vocab_size
        self.text = Decoder(text_key, config.text, vocab_size)
        self.vision = Vision(vision_key, config.vision)
        size = config.projection_dim
        self.text_projection = projection(keys[0], config.text, size=size, use_bias=False)
        self.vision_projection = projection(keys[1], config.vision, size=size, use_bias=False)
        self.log_scale = declare(
            key,
            WeightSpec((), (), "scale"),
            lambda key, spec: jnp.asarray(config.initial_log_scale, jnp.float32),
        )

    def __call__(
        self,
        tokens_BT: jax.Array,
        pixels_IHWC: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        text_keys_B: jax.Array | None = None,
        image_keys_I: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> Compared:
        """(B, T) ids and (I, H, W, C) images -> their vectors and scaled products (I, B)."""
        texts_BP = self.embed_texts(
            tokens_BT, segment_ids_BT=segment_ids_BT, keys_B=text_keys_B, layout=layout
        )
        images_IP = self.embed_images(pixels_IHWC, keys_I=image_keys_I, layout=layout)
        highest = jax.lax.Precision.HIGHEST  # the scale enlarges what rounding is lost here
        logits_IB = jnp.matmul(images_IP, texts_BP.T, precision=highest)
        logits_IB = jnp.exp(self.log_scale[...]) * logits_IB
        return Compared(texts_BP, images_IP, logits_IB)

    def embed_texts(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """(B, T) ids, one text a row -> (B, P), of length 1. What follows the end is not seen."""
        hidden_BTD, _ = self.text.hidden(
            tokens_BT, segment_ids_BT=segment_ids_BT, keys_B=keys_B, layout=layout
        )
        end_id = self.config.end_id
        is_end_BT = tokens_BT if end_id is None else (tokens_BT == end_id).astype(jnp.int32)
        end_B = jnp.argmax(is_end_BT, axis=1)  # the first one
        pooled_BD = jnp.take_along_axis(hidden_BTD, end_B[:, None, None], axis=1)[:, 0]
        return _normalised(self.text_projection(pooled_BD))

    def embed_images(
        self,
        pixels_IHWC: jax.Array,
        *,
        keys_I: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """(I, H, W, C) -> (I, P), of length 1."""
        hidden_ITD = self.vision(pixels_IHWC, keys_B=keys_I, layout=layout).hidden_BTD
        return _normalised(self.vision_projection(hidden_ITD[:, 0]))


def _normalised(x_BP: jax.Array) -> jax.Array:
    """Vectors of length 1, in float32."""
    x_BP = x_BP.astype(jnp.float32)
    return x_BP / jnp.linalg.norm(x_BP, axis=-1, keepdims=True)
