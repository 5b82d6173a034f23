"""The encoder-decoder transformer (arXiv:1706.03762, 1910.10683).

B batch, S source length, T target length, D embed, V vocabulary.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.models.block import Rows
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.models.encoder_decoder_stack import DecodingCache, Half
from jaxllm.nn.attention import Cache, Memory
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.param import declare, zeros
from jaxllm.nn.positions import sinusoids
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.stages import outside


class EncoderDecoder(nnx.Module):
    """Token ids of a source and of a target -> logits of the target's next token."""

    def __init__(self, key: jax.Array, config: EncoderDecoderConfig, vocab_size: int):
        embed_key, encoder_key, decoder_key, out_key = jax.random.split(key, 4)
        self.config = config
        self.vocab_size = vocab_size
        self.embed = Embedding(
            embed_key,
            axis="vocab",
            rows=vocab_size,
            embed_dim=config.embed_dim,
            std=config.embed_init_std,
        )
        num_buckets = config.num_buckets if config.positions == "relative" else None
        half = partial(Half, num_buckets=num_buckets, max_distance=config.max_distance)
        self.encoder = half(encoder_key, config, is_decoder=False)
        self.decoder = half(decoder_key, config.decoder, is_decoder=True)
        self.out = (
            None
            if config.is_tied
            else Linear(
                out_key,
                inputs={"embed": config.embed_dim},
                outputs={"vocab": vocab_size},
                use_bias=False,
                init=config.hidden_init,
                role="output",
            )
        )
        bias = WeightSpec((vocab_size,), ("vocab",), "bias", output_dims=(0,))
        self.output_bias = declare(out_key, bias, zeros) if config.has_output_bias else None

    def __call__(
        self,
        encoder_tokens_BS: jax.Array,
        decoder_tokens_BT: jax.Array,
        *,
        encoder_mask_BS: jax.Array | None = None,
        decoder_segment_ids_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """Source (B, S) and target (B, T), from its start_id on -> (B, T, V) in the compute dtype.

        encoder_mask_BS: nonzero where the source has a token, 0 where it is padded; default no
        padding. decoder_segment_ids_BT: parts of the target, which never see each other, though
        all of them see the whole source; padding behind a target needs none. keys_B: one random
        key an example for dropout; None is off.
        """
        x_BTD = self.hidden(
            encoder_tokens_BS,
            decoder_tokens_BT,
            encoder_mask_BS=encoder_mask_BS,
            decoder_segment_ids_BT=decoder_segment_ids_BT,
            keys_B=keys_B,
            layout=layout,
        )
        return self.logits(x_BTD, layout=layout)

    def hidden(
        self,
        encoder_tokens_BS: jax.Array,
        decoder_tokens_BT: jax.Array,
        *,
        encoder_mask_BS: jax.Array | None = None,
        decoder_segment_ids_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """As `__call__`, up to what `logits` takes: (B, T, D)."""
        memory = self.encode(encoder_tokens_BS, encoder_mask_BS, keys_B=keys_B, layout=layout)
        x_BTD, _ = self._decoder(
            decoder_tokens_BT,
            memory,
            jnp.arange(decoder_tokens_BT.shape[1]),
            segment_ids_BT=decoder_segment_ids_BT,
            cache=None,
            keys_B=fold_in(keys_B, 1),
            layout=layout,
        )
        return x_BTD

    def encode(
        self,
        encoder_tokens_BS: jax.Array,
        encoder_mask_BS: jax.Array | None = None,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> Memory:
        """What the decoder looks at: (B, S, D), and which of it is not padding. As `__call__`."""
        layout = None if layout is None else outside(layout)
        if encoder_mask_BS is not None:
            encoder_mask_BS = encoder_mask_BS != 0
            # A row of padding alone, which fills up a batch, would be a softmax over nothing.
            encoder_mask_BS |= ~jnp.any(encoder_mask_BS, axis=1, keepdims=True)
        positions_S = jnp.arange(encoder_tokens_BS.shape[1])
        x_BSD, rows = self._embedded(encoder_tokens_BS, positions_S, fold_in(keys_B, 0), layout)
        if encoder_mask_BS is not None:
            rows = rows._replace(segment_ids_BT=encoder_mask_BS.astype(jnp.int32))
        x_BSD, _ = self.encoder(x_BSD, rows, positions_S, layout=layout)
        return Memory(x_BSD, encoder_mask_BS)

    def decode(
        self,
        tokens_BT: jax.Array,
        memory: Memory,
        *,
        positions_T: jax.Array,
        cache: DecodingCache,
    ) -> tuple[jax.Array, DecodingCache]:
        """Logits (B, T, V) of new tokens, and the cache with them in it.

        positions_T: where in their targets, and in the cache, all rows have these tokens.
        """
        x_BTD, own = self._decoder(
            tokens_BT,
            memory,
            positions_T,
            segment_ids_BT=None,
            cache=cache,
            keys_B=None,
            layout=None,
        )
        assert own is not None
        return self.logits(x_BTD), cache._replace(own=own)

    def empty_cache(self, memory: Memory, num_slots: int) -> DecodingCache:
        """A cache for targets of up to `num_slots` tokens that look at this memory."""
        config = self.config.decoder
        batch_size = memory.x_BSD.shape[0]
        shape = (config.num_layers, batch_size, num_slots, config.kv_heads, config.head_size)
        blank = jnp.zeros(shape, memory.x_BSD.dtype)
        return DecodingCache(Cache(blank, blank), self.decoder.project(memory.x_BSD))

    def logits(self, x_BTD: jax.Array, *, layout: Layout | None = None) -> jax.Array:
        """(B, T, D), as `hidden` gives it -> (B, T, V)."""
        layout = None if layout is None else outside(layout)
        if self.config.is_output_scaled:
            x_BTD = x_BTD * jnp.asarray(self.config.embed_dim**-0.5, x_BTD.dtype)
        logits_BTV = self.embed.attend(x_BTD) if self.out is None else self.out(x_BTD)
        if self.output_bias is not None:
            bias_V = jax.lax.stop_gradient(self.output_bias[...])
            logits_BTV = logits_BTV + bias_V.astype(x_BTD.dtype)
        return constrain(layout, logits_BTV, "batch", "length", "act_vocab")

    def _decoder(
        self,
        tokens_BT: jax.Array,
        memory: Memory,
        positions_T: jax.Array,
        *,
        segment_ids_BT: jax.Array | None,
        cache: DecodingCache | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Cache | None]:
        """(B, T) ids -> (B, T, D) behind the last norm, and the tokens' keys and values."""
        layout = None if layout is None else outside(layout)
        x_BTD, rows = self._embedded(tokens_BT, positions_T, keys_B, layout)
        rows = rows._replace(segment_ids_BT=segment_ids_BT, memory=memory)
        return self.decoder(x_BTD, rows, positions_T, cache=cache, layout=layout)

    def _embedded(
        self,
        tokens_BT: jax.Array,
        positions_T: jax.Array,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Rows]:
        """Tokens (B, T) at these positions as (B, T, D), and what every layer reads with them."""
        config = self.config
        platform = jax.default_backend() if layout is None else layout.platform
        dtype = config.compute_dtype(platform)
        x_BTD = self.embed(tokens_BT, dtype=dtype, layout=layout)
        if config.padding_id is not None:
            is_padding_BT1 = (tokens_BT == config.padding_id)[..., None]
            x_BTD = jnp.where(is_padding_BT1, jax.lax.stop_gradient(x_BTD), x_BTD)
        if config.is_embed_scaled:
            x_BTD = x_BTD * jnp.asarray(math.sqrt(config.embed_dim), dtype)
        positions_BT = jnp.broadcast_to(positions_T, tokens_BT.shape)
        if config.positions == "sinusoidal":
            x_BTD = x_BTD + sinusoids(positions_BT, config.embed_dim).astype(dtype)
        # The layers of a stack have the numbers below; the deeper one's depth is free in both.
        keys = fold_in(keys_B, max(config.stack_depths))
        x_BTD = dropout(x_BTD, config.dropout, keys, layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")
        return x_BTD, Rows(positions_BT, keys_B=keys_B)
