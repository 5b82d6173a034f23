"""Adagrad: each weight's rate falls with the sum of its squared gradients."""

from typing import Literal

import optax
from pydantic import Field

from jaxllm.optim.base import DecayingOptimizer, Epsilon, Rate, Specs


class Adagrad(DecayingOptimizer):
    """Adagrad (Duchi et al., JMLR 12, 2011)."""

    type: Literal["adagrad"] = "adagrad"
    """Adagrad."""

    learning_rate: Rate = 0.01
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    initial_accumulator: float = Field(default=0.1, ge=0)
    """Where the sum of squared gradients starts."""

    eps: Epsilon = 1e-7
    """Added to the sum of squared gradients, under the root."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        return optax.scale_by_rss(self.initial_accumulator, self.eps)
