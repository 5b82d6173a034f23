"""Lion: the sign of a momentum, one moment of state."""

from typing import Literal

import optax

from jaxllm.optim.base import Beta, DecayingOptimizer, MomentDtype, Rate, Specs


class Lion(DecayingOptimizer):
    """Lion (arXiv:2302.06675); it wants a rate 3 to 10 times smaller than AdamW's."""

    type: Literal["lion"] = "lion"
    """Lion."""

    learning_rate: Rate = 1e-4
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    beta1: Beta = 0.9
    """Share of the mean gradient in the direction of the step."""

    beta2: Beta = 0.99
    """Share of the mean gradient kept each step."""

    mu_dtype: MomentDtype = "float32"
    """Data type in which the mean gradient is kept."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        return optax.scale_by_lion(self.beta1, self.beta2, mu_dtype=self.mu_dtype)
