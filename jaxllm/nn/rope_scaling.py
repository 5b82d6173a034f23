"""Longer contexts than a model was trained on, by changing its rotary frequencies.

F frequencies, half of the rotated dimensions of a head, fastest first.
"""

import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jaxllm.schema import Config


class LinearScaling(Config):
    """All positions divided by a factor (arXiv:2306.15595)."""

    type: Literal["linear"] = "linear"
    """Kind of scaling: one factor for all frequencies."""
    factor: PositiveFloat
    """How many times longer the context becomes."""

    @property
    def amplitude(self) -> float:
        """Factor of the rotated queries and keys."""
        return 1.0

    def scaled(
        self, frequencies_F: jax.Array, *, theta: float, positions_BT: jax.Array
    ) -> jax.Array:
        """The frequencies, changed."""
        return frequencies_F / self.factor


class Llama3Scaling(Config):
    """Slow frequencies divided by a factor, fast ones kept, those between blended (Llama 3.1)."""

    type: Literal["llama3"] = "llama3"
    """Kind of scaling: that of Llama 3.1."""
    factor: PositiveFloat
    """How many times longer the context becomes."""
    low_frequency_factor: PositiveFloat = 1.0
    """Turns within original_length below which a frequency is divided by the factor."""
    high_frequency_factor: PositiveFloat = 4.0
    """Turns within original_length above which a frequency is kept."""
    original_length: PositiveInt
    """Context that the model was trained on, in tokens."""

    @model_validator(mode="after")
    def _factors_are_ordered(self) -> "Llama3Scaling":
        if self.low_frequency_factor >= self.high_frequency_factor:
            raise ValueError(
                f"low_frequency_factor={self.low_frequency_factor} is not below "
                f"high_frequency_factor={self.high_frequency_factor}"
            )
        return self

    @property
    def amplitude(self) -> float:
        """Factor of the rotated queries and keys."""
        return 1.0

    def scaled(
        self, frequencies_F: jax.Array, *, theta: float, positions_BT: jax.Array
    ) -> jax.Array:
        """The frequencies, changed."""
        turns_F = self.original_length * frequencies_F / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        kept_F = jnp.clip((turns_F - low) / (high - low), 0.0, 1.0)
        return (1 - kept_F) * frequencies_F / self.factor + kept_F * frequencies_F


class YarnScaling(Config):
    """As Llama 3.1's with a ramp over dimensions, and larger scores (arXiv:2309.00071)."""

    type: Literal["yarn"] = "yarn"
    """Kind of scaling: YaRN."""
    factor: PositiveFloat
    """How many times longer the context becomes."""
    original_length: PositiveInt
    """Context that the model was trained on, in tokens."""
    beta_fast: PositiveFloat = 32.0
    """Turns within original_length from which on a frequency is kept."""
    beta_slow: PositiveFloat = 1.0
    """Turns within original_length up to which a frequency is divided by the factor."""
    amplitude: PositiveFloat = 1.0
    """Factor of the rotated queries and keys; the paper has 0.1 ln(factor) + 1."""
    is_truncated: bool = True
    """Whether the ends of the ramp are rounded to whole dimensions."""
    score_weight: NonNegativeFloat = 0.0
    """Weight w of a further factor (0.1 w ln(factor) + 1)^2 of scores in latent attention."""

    @property
    def score_factor(self) -> float:
        """The further factor of scores in latent attention (arXiv:2405.04434, section 3.1.4)."""
        return (0.1 * self.score_weight * math.log(self.factor) + 1.0) ** 2

    def scaled(
        self, frequencies_F: jax.Array, *, theta: float, positions_BT: jax.Array
    ) -> jax.Array:
        """The frequencies, changed."""
        half = frequencies_F.shape[0]
        first, last = (
            self._dimension(turns, half, theta) for turns in (self.beta_fast, self.beta_slow)
        )
        if self.is_truncated:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * half - 1)
        span = last - first or 0.001  # a ramp without length is a step
        divided_F = np.clip((np.arange(half, dtype=np.float32) - first) / span, 0.0, 1.0)
        return frequencies_F / self.factor * divided_F + frequencies_F * (1 - divided_F)

    def _dimension(self, turns: float, half: int, theta: float) -> float:
        """The index of the frequency that turns so often within the original length."""
        ratio = self.original_length / (turns * 2 * math.pi)
        return half * math.log(ratio) / math.log(theta)


class LongScaling(Config):
    """A factor for every frequency, one set for short and one for long rows (arXiv:2402.13753)."""

    type: Literal["longrope"] = "longrope"
    """Kind of scaling: LongRoPE."""
    short_factors: tuple[PositiveFloat, ...]
    """Divisors of the frequencies in batches that end within original_length, fastest first."""
    long_factors: tuple[PositiveFloat, ...]
    """Divisors of the frequencies in batches with longer rows, fastest first."""
    original_length: PositiveInt
    """Context that the model was trained on, in tokens."""
    amplitude: PositiveFloat = 1.0
    """Factor of the rotated queries and keys; the paper has sqrt(1 + ln(s) / ln(original_length))
    for a context s times as long."""

    def scaled(
        self, frequencies_F: jax.Array, *, theta: float, positions_BT: jax.Array
    ) -> jax.Array:
        """The frequencies, changed. positions_BT: their last decides which set is used."""
        is_long = jnp.max(positions_BT) >= self.original_length
        short_F = jnp.asarray(self.short_factors, jnp.float32)
        return frequencies_F / jnp.where(
            is_long, jnp.asarray(self.long_factors, jnp.float32), short_F
        )


RopeScaling = Annotated[
    LinearScaling | Llama3Scaling | YarnScaling | LongScaling, Field(discriminator="type")
]
