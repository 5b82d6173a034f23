"""AdamW: Adam with decoupled weight decay."""

from typing import Literal

import optax
from pydantic import Field

from jaxllm.optim.base import Beta, DecayingOptimizer, Epsilon, MomentDtype, Rate, Specs


class AdamW(DecayingOptimizer):
    """AdamW (arXiv:1711.05101), with the defaults usual for language models."""

    type: Literal["adamw"] = "adamw"
    """Adam with decoupled weight decay."""

    learning_rate: Rate = 3e-4
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    weight_decay: float = Field(default=0.1, ge=0)
    """Share of a matrix or embedding taken off each step, times the learning rate of the step;
    scales and biases do not decay."""

    beta1: Beta = 0.9
    """Share of the mean gradient kept each step."""

    beta2: Beta = 0.95
    """Share of the mean squared gradient kept each step."""

    eps: Epsilon = 1e-8
    """Added to the root of the mean squared gradient."""

    mu_dtype: MomentDtype = "float32"
    """Data type in which the mean gradient is kept."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2, self.eps, mu_dtype=self.mu_dtype)
