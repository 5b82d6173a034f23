"""Adafactor: second moments as the product of a row and a column, one pair a weight."""

from typing import Annotated, Literal

import optax
from pydantic import Field

from jaxllm.optim.base import DecayingOptimizer, Epsilon, Rate, Specs
from jaxllm.optim.stacked import per_weight


class Adafactor(DecayingOptimizer):
    """Adafactor (arXiv:1804.04235), without momentum.

    A weight is factored over its two largest dimensions. The weight decay is multiplied by the
    learning rate, as with every optimizer here; `optax.adafactor` takes its decay as it is.
    """

    type: Literal["adafactor"] = "adafactor"
    """Adafactor."""

    learning_rate: Rate = 0.01
    """Peak learning rate, relative to the RMS of each weight if `scale_by_weight` is on."""

    scale_by_weight: bool = True
    """Multiply the step of a weight by the RMS of the weight."""

    decay_exponent: float = Field(default=0.8, gt=0)
    """At step t the mean squared gradient keeps a share of 1 - t ** -decay_exponent."""

    clip_rms: Annotated[float, Field(ge=1)] | None = 1.0
    """Largest RMS of the step of one weight, before the rate; null turns it off."""

    min_factored_size: int = Field(default=128, ge=1)
    """Weights whose second largest dimension is smaller than this are not factored."""

    eps: Epsilon = 1e-30
    """Added to the squared gradient."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        parts = [
            optax.scale_by_factored_rms(
                decay_rate=self.decay_exponent,
                min_dim_size_to_factor=self.min_factored_size,
                epsilon=self.eps,
            )
        ]
        if self.clip_rms is not None:
            parts.append(optax.clip_by_block_rms(self.clip_rms))
        if self.scale_by_weight:
            parts.append(optax.scale_by_param_block_rms())
        return per_weight(optax.chain(*parts), specs)
