"""Adam, without weight decay; with it, it is AdamW."""

from typing import Literal

import optax

from jaxllm.optim.base import Beta, Epsilon, MomentDtype, Optimizer, Rate, Specs


class Adam(Optimizer):
    """Adam (arXiv:1412.6980). It has no weight decay: that is `adamw`."""

    type: Literal["adam"] = "adam"
    """Adam, without weight decay."""

    learning_rate: Rate = 3e-4
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    beta1: Beta = 0.9
    """Share of the mean gradient kept each step."""

    beta2: Beta = 0.999
    """Share of the mean squared gradient kept each step."""

    eps: Epsilon = 1e-8
    """Added to the root of the mean squared gradient."""

    mu_dtype: MomentDtype = "float32"
    """Data type in which the mean gradient is kept."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2, self.eps, mu_dtype=self.mu_dtype)
