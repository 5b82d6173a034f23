"""What all optimizers share: rate, schedule, clipping, weight decay, and their order.

Gradients are clipped by their global norm, turned into a direction by the optimizer's own rule,
joined by the decayed weights, and scaled by minus the rate of the step, which may fall with depth.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import optax
from pydantic import Field

from jaxllm.optim.depth import scale_by_depth
from jaxllm.optim.schedules import Cosine, ScheduleConfig
from jaxllm.parallel.axes import WeightSpec
from jaxllm.schema import Config

# A nested dict of weight declarations, of the same structure as the parameters.
type Specs = Mapping[str, WeightSpec | Specs]

Rate = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Epsilon = Annotated[float, Field(gt=0)]
MomentDtype = Literal["float32", "bfloat16"]

# Scales rest at one and biases are few: pulling them towards zero helps nothing.
DECAYED_ROLES = ("hidden", "embedding", "output")


class Optimizer(Config, ABC):
    """The base of every optimizer config; a subclass names its type and its direction."""

    learning_rate: Rate
    """Peak learning rate, which the schedule reaches at the end of its warmup."""

    schedule: ScheduleConfig = Cosine()
    """How the learning rate moves over the run."""

    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global norm of the gradient over all weights; larger ones are scaled to it, null
    turns clipping off."""

    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor of the rate from each layer to the one below it, the embeddings lowest of all; null
    is one rate for all."""

    @property
    def depends_on_total_steps(self) -> bool:
        """Whether a longer run would have other rates at the same steps."""
        return self.schedule.depends_on_total_steps

    def schedule_fn(self, total_steps: int) -> optax.Schedule:
        """The function from a step (int or traced scalar) to the learning rate.

        Raises ValueError if the schedule does not fit into `total_steps` steps.
        """
        return self.schedule.build(self.learning_rate, total_steps=total_steps)

    def build(
        self, specs: Specs, *, total_steps: int, frozen: Specs | None = None
    ) -> optax.GradientTransformation:
        """The whole transformation from gradients to what is added to the weights.

        `specs` has the structure of the parameters; `update` needs the parameters as its third
        argument. frozen: the network's other weights, which `layer_decay` counts too. Raises
        ValueError if the schedule does not fit into `total_steps` steps.
        """
        parts = [
            self.clip(),
            self.direction(specs),
            self.decay(specs),
            self.step_size(specs, total_steps),
        ]
        if self.layer_decay is not None:
            parts.append(scale_by_depth(self.layer_decay, specs, frozen=frozen))
        return optax.chain(*parts)

    def clip(self) -> optax.GradientTransformation:
        """Bounds the global norm of the gradient: over all weights, and all layers of each."""
        if self.clip_norm is None:
            return optax.identity()
        return optax.clip_by_global_norm(self.clip_norm)

    @abstractmethod
    def direction(self, specs: Specs) -> optax.GradientTransformation:
        """From clipped gradients to the direction of the step, rising, before the rate."""

    def decay(self, specs: Specs) -> optax.GradientTransformation:
        """What pulls the weights towards zero, before the rate."""
        return optax.identity()

    def step_size(self, specs: Specs, total_steps: int) -> optax.GradientTransformation:
        """Minus the rate of the step, for every weight."""
        return optax.scale_by_learning_rate(self.schedule_fn(total_steps))


class DecayingOptimizer(Optimizer):
    """An optimizer with decoupled weight decay (arXiv:1711.05101)."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a matrix or embedding taken off each step, times the learning rate of the step;
    scales and biases do not decay."""

    def decay(self, specs: Specs) -> optax.GradientTransformation:
        return optax.add_decayed_weights(self.weight_decay, mask=decay_mask(specs))


def decay_mask(specs: Specs) -> dict:
    """True where a weight decays: matrices and embeddings, not scales and biases."""
    return jax.tree.map(lambda spec: spec.role in DECAYED_ROLES, specs)
