"""Stochastic gradient descent, with momentum or Nesterov's."""

from typing import Literal, Self

import optax
from pydantic import model_validator

from jaxllm.optim.base import Beta, DecayingOptimizer, Rate, Specs


class Sgd(DecayingOptimizer):
    """Gradient descent; the momentum is the sum of past gradients, each decayed by its age."""

    type: Literal["sgd"] = "sgd"
    """Stochastic gradient descent."""

    learning_rate: Rate = 0.1
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    momentum: Beta = 0.9
    """Share of the momentum kept each step; 0 is plain gradient descent, without state."""

    nesterov: bool = False
    """Look one step ahead along the momentum."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError(
                "nesterov is true but momentum is 0: set momentum above 0, or nesterov to false"
            )
        return self

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        if self.momentum == 0:
            return optax.identity()
        return optax.trace(self.momentum, nesterov=self.nesterov)
