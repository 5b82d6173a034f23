"""What a decoder-only transformer can be, with the options of the families that are published."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import jax
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from jaxllm.models.block_config import BlockConfig, padded_vocab_size
from jaxllm.nn.attention import Scores
from jaxllm.nn.latent_attention import LatentConfig
from jaxllm.nn.moe import MoeConfig
from jaxllm.nn.rope import Rope
from jaxllm.nn.rope_scaling import LongScaling, RopeScaling
from jaxllm.parallel.axes import WeightSpec

if TYPE_CHECKING:
    from jaxllm.models.decoder import Decoder


class DecoderConfig(BlockConfig):
    """A decoder-only transformer. The defaults are a small Llama."""

    type: Literal["decoder"] = "decoder"
    """Kind of network: a decoder."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding; null is the tokenizer's size rounded up to a multiple of 64."""
    positions: Literal["rope", "learned"] = "rope"
    """Rotary positions, or a learned table of max_length rows."""
    max_length: PositiveInt = 1024
    """Rows of the learned position table, in tokens; unused with rope."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    rope_fraction: PositiveFloat = Field(1.0, le=1.0)
    """Share of each head that is rotated, its first dimensions."""
    rope_scaling: RopeScaling | None = None
    """Change of the rotary frequencies for longer contexts, by type; null is none."""
    window: PositiveInt | None = None
    """Tokens that a token sees in layers with a window, itself included; null has no windows."""
    window_pattern: tuple[bool, ...] = (True,)
    """Whether each layer has the window, repeated over the depth."""
    window_rope_theta: PositiveFloat | None = None
    """Base of the rotary frequencies of layers with a window, never scaled; null is as in the
    others."""
    is_parallel: bool = False
    """Whether attention and feed-forward layer of a block read the same input."""
    latent: LatentConfig | None = None
    """Keys and values made of one small vector a token; null is usual heads."""
    moe: MoeConfig | None = None
    """Mixture of experts in place of the feed-forward layers; null is dense ones."""
    is_embed_scaled: bool = False
    """Whether embedded tokens are multiplied by sqrt(embed_dim)."""
    is_tied: bool = False
    """Whether the output projection is the transposed embedding."""
    output_init: Literal["same", "zero"] = "same"
    """The untied output projection starts like hidden matrices or at 0."""
    logit_soft_cap: PositiveFloat | None = None
    """Logits become cap * tanh(logits / cap); null is off."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "DecoderConfig":
        if self.positions == "rope" and self.latent is None:
            rotated = self.head_size * self.rope_fraction
            if rotated % 2:
                is_whole = self.rope_fraction == 1
                share = "" if is_whole else f"rope_fraction={self.rope_fraction} of "
                number = "odd" if is_whole else f"{rotated}"
                raise ValueError(
                    f"{share}head_dim={self.head_size} is {number}; rotary positions rotate pairs"
                )
        if isinstance(self.rope_scaling, LongScaling):
            pairs = Rope(1.0, self.rope_fraction).rotated_dims(self.head_size) // 2
            given = {len(self.rope_scaling.short_factors), len(self.rope_scaling.long_factors)}
            if given != {pairs}:
                raise ValueError(
                    f"rope_scaling has {sorted(given)} factors, but heads rotate {pairs} pairs; "
                    "give one for each pair"
                )
        if self.window is None and (self.window_pattern != (True,) or self.window_rope_theta):
            raise ValueError(
                "window_pattern or window_rope_theta is given, but window is null; give window"
            )
        if not self.window_pattern:
            raise ValueError("window_pattern is empty; give a list of true and false")
        if self.is_parallel and self.norm_position != "pre":
            raise ValueError(
                f"is_parallel=true with norm_position={self.norm_position}; only pre is known"
            )
        if self.moe is not None:
            self._check_moe(self.moe)
        if self.latent is not None:
            self._check_latent()
        return self

    def _check_moe(self, moe: MoeConfig) -> None:
        if self.use_bias:
            raise ValueError(
                "use_bias=true, but the experts of moe have no biases; set it to false"
            )
        if moe.num_dense_layers >= self.num_layers:
            raise ValueError(
                f"moe.num_dense_layers={moe.num_dense_layers} of num_layers={self.num_layers} "
                "leaves no layer with experts; lower it, or leave moe out"
            )

    def _check_latent(self) -> None:
        has = {
            "num_kv_heads": self.kv_heads != self.num_heads,
            "head_dim": self.head_dim is not None,
            "qk_norm": self.qk_norm != "none",
            "use_bias or attention_bias": self.projection_bias != "none",
            "rope_fraction": self.rope_fraction != 1.0,
            "positions=learned": self.positions != "rope",
        }
        given = [key for key, is_given in has.items() if is_given]
        if given:
            raise ValueError(
                f"{', '.join(given)} given beside latent, which has its own sizes; leave it out"
            )

    @property
    def scores(self) -> Scores:
        """How attention scores are made."""
        if self.positions != "rope":
            return replace(super().scores, window=self.window)
        theta = self.window_rope_theta
        return replace(
            super().scores,
            window=self.window,
            rope=Rope(self.rope_theta, self.rope_fraction, self.rope_scaling),
            window_rope=None if theta is None else Rope(theta, self.rope_fraction),
        )

    @property
    def windowed_layers(self) -> tuple[bool, ...]:
        """Whether each layer has the window."""
        if self.window is None:
            return (False,) * self.num_layers
        pattern = self.window_pattern
        return tuple(pattern[layer % len(pattern)] for layer in range(self.num_layers))

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Layers of each stack of equal blocks: with experts, the dense ones come first."""
        dense = self.num_dense_layers
        return (dense, self.num_layers - dense) if dense else (self.num_layers,)

    @property
    def num_dense_layers(self) -> int:
        """Number of first layers in a stack of their own, dense ones before mixtures."""
        return 0 if self.moe is None else self.moe.num_dense_layers

    def padded_vocab_size(self, num_ids: int) -> int:
        """Rows of the embedding. ValueError if fewer than the ids that are used."""
        return padded_vocab_size(self.vocab_size, num_ids)

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError, naming the config key, if the model has no position for `length` tokens."""
        if self.positions == "learned" and length > self.max_length:
            raise ValueError(
                f"{key} is {length}, but the model has {self.max_length} learned positions; "
                "raise model.max_length or use model.positions=rope"
            )

    def build(self, key: jax.Array, vocab_size: int) -> "Decoder":
        """A new decoder over `vocab_size` tokens; call under eval_shape for its shapes only."""
        from jaxllm.models.decoder import Decoder  # it is built of what reads this config

        return Decoder(key, self, vocab_size)

    def active_size(self, spec: WeightSpec) -> int:
        """How many numbers of a weight one token meets."""
        size = math.prod(spec.shape)
        if self.moe is not None and "experts" in spec.axes:
            return size // self.moe.num_experts * self.moe.top_k
        return size

    def flops_per_token(self, num_matmul_params: int, length: int) -> float:
        """Forward and backward FLOPs a token: 6 a matmul parameter, 12 L N H T for attention.

        num_matmul_params: the sum of `active_size`, so that only chosen experts count.

        The convention of PaLM (arXiv:2204.02311, appendix B): the causal half of attention is
        not subtracted and recomputation is not counted. T is the window where that is less.
        """
        seen = sum(
            min(length, self.window) if self.window is not None and is_windowed else length
            for is_windowed in self.windowed_layers
        )
        width: float = self.head_size
        if self.latent is not None:  # keys and values of different widths
            width = (self.latent.plain_dim + self.latent.rope_dim + self.latent.value_dim) / 2
        return 6.0 * num_matmul_params + 12 * seen * self.num_heads * width
