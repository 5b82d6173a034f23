"""What an encoder-decoder transformer can be: the original one, as Marian has it, and T5."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
from pydantic import NonNegativeInt, PositiveInt, model_validator

from jaxllm.models.block_config import BlockConfig, padded_vocab_size

if TYPE_CHECKING:
    from jaxllm.models.encoder_decoder import EncoderDecoder


# Of blocks, what the decoder can have otherwise, and the encoder's key.
_DECODER_KEYS = {
    "num_decoder_layers": "num_layers",
    "num_decoder_heads": "num_heads",
    "decoder_mlp_dim": "mlp_dim",
}


# The weights that tokens of the source are multiplied by.
_OF_SOURCE = re.compile(r"encoder\.|decoder\..*memory_attention\.(key|value)\.")


class EncoderDecoderConfig(BlockConfig):
    """A source is read at once, a target is written token by token. The defaults are a small T5.

    The keys of blocks are those of both stacks, unless a key with `decoder` in it is given.
    """

    type: Literal["encoder_decoder"] = "encoder_decoder"
    """Kind of network: an encoder and a decoder that looks at what it made."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding, which both stacks share; null is the size that it is built with."""
    num_decoder_layers: PositiveInt | None = None
    """Number of the decoder's blocks; null is num_layers."""
    num_decoder_heads: PositiveInt | None = None
    """Number of the decoder's query heads; null is num_heads."""
    decoder_mlp_dim: PositiveInt | None = None
    """Width of the decoder's feed-forward layers; null is as in the encoder."""
    positions: Literal["relative", "sinusoidal"] = "relative"
    """Learned biases of scores by distance (T5), or sines and cosines added to the embeddings."""
    max_length: PositiveInt = 1024
    """Longest source or target that sinusoidal positions are meant for, in tokens; unused with
    relative ones."""
    num_buckets: PositiveInt = 32
    """Classes of distances that have a bias each, with relative positions."""
    max_distance: PositiveInt = 128
    """Distance in tokens from which on all have the same bias, with relative positions."""
    is_embed_scaled: bool = False
    """Whether embedded tokens are multiplied by sqrt(embed_dim)."""
    is_tied: bool = False
    """Whether the output projection is the transposed embedding."""
    is_output_scaled: bool = False
    """Whether the decoder's result is divided by sqrt(embed_dim) before the output projection."""
    has_output_bias: bool = False
    """Whether logits have a bias, which is loaded, saved and added but not trained, as in
    published Marian models."""
    start_id: NonNegativeInt = 0
    """Token that every target begins with; it is read, never written."""
    padding_id: NonNegativeInt | None = None
    """Token that is never written, and whose embedding is not trained where it is read, only as a
    row of a tied output projection (Marian's padding, which is its start_id); null is none."""
    forced_end_id: NonNegativeInt | None = None
    """Token that ends a target of as many tokens as there may be, taken as certain (Marian's end);
    null leaves the last one to the model, as T5 does."""

    @model_validator(mode="before")
    @classmethod
    def _like_the_encoder(cls, given: Any) -> Any:
        """A decoder's key with the encoder's value is null: what means the same is equal."""
        if not isinstance(given, dict):
            return given
        default = {name: field.default for name, field in cls.model_fields.items()}
        return given | {
            key: None
            for key, other in _DECODER_KEYS.items()
            if key in given and given[key] == given.get(other, default[other])
        }

    @model_validator(mode="after")
    def _stacks_fit(self) -> "EncoderDecoderConfig":
        heads = self.decoder.num_heads
        if heads % self.decoder.kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} does not divide num_decoder_heads={heads}"
            )
        if self.head_dim is None and self.embed_dim % heads:
            raise ValueError(
                f"num_decoder_heads={heads} does not divide embed_dim={self.embed_dim}; "
                "change one of them, or give head_dim"
            )
        return self

    @model_validator(mode="after")
    def _positions_fit(self) -> "EncoderDecoderConfig":
        if self.positions == "sinusoidal":
            if self.embed_dim % 2:
                raise ValueError(
                    f"embed_dim={self.embed_dim} is odd, but sinusoidal positions are pairs of a "
                    "sine and a cosine; make it even"
                )
            return self
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise ValueError(
                f"num_buckets={self.num_buckets}; make it an even number from 4 on: each direction "
                "has a half of them, and each half is near and far distances"
            )
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(
                f"max_distance={self.max_distance} is within the {self.num_buckets // 2} nearest "
                "distances, which have a bias each; raise it or lower num_buckets"
            )
        return self

    @property
    def decoder(self) -> BlockConfig:
        """The decoder's blocks."""
        changes = {
            other: getattr(self, key) or getattr(self, other)
            for key, other in _DECODER_KEYS.items()
        }
        return self.model_copy(update=changes)

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Layers of each stack of equal blocks."""
        return (self.num_layers, self.decoder.num_layers)

    def flops_per_row(
        self, matmul_sizes: Mapping[str, float], *, source: int, target: int
    ) -> float:
        """Forward and backward FLOPs of a source and its target, of so many tokens each.

        As `flops_per_token`, where a token of the source meets the encoder and what makes the
        decoder's keys and values of it, and one of the target all the rest. matmul_sizes: of
        each weight that tokens are multiplied by, by its path.
        """
        matmuls = sum(
            size * (source if _OF_SOURCE.match(path) else target)
            for path, size in matmul_sizes.items()
        )
        encoder, decoder = (
            half.num_layers * half.num_heads * half.head_size for half in (self, self.decoder)
        )
        attention = encoder * source * source + decoder * target * (target + source)
        return 6.0 * matmuls + 12.0 * attention

    def padded_vocab_size(self, num_ids: int) -> int:
        """Rows of the embedding. ValueError if fewer than the ids that are used."""
        return padded_vocab_size(self.vocab_size, num_ids)

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError, naming what is too long, if the model has no positions for such a text."""
        if self.positions == "sinusoidal" and length > self.max_length:
            raise ValueError(
                f"{key} is {length}, but the model's positions are meant for {self.max_length} "
                "tokens; shorten it or raise model.max_length"
            )

    def build(self, key: jax.Array, vocab_size: int) -> "EncoderDecoder":
        """A new network over `vocab_size` tokens; call under eval_shape for its shapes only."""
        from jaxllm.models.encoder_decoder import EncoderDecoder  # built of what reads this config

        return EncoderDecoder(key, self, vocab_size)
