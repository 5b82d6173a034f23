"""Learning-rate schedules: a linear warmup from zero, then one of four shapes.

A schedule knows nothing of the peak: that is the optimizer's `learning_rate`, so that an
optimizer with two rates runs both through the same shape. Steps count from 0, and the value at
step s scales the update that leads from step s to s + 1.
"""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import optax
from pydantic import Field

from jaxllm.schema import Config


class Schedule(Config, ABC):
    """What all schedules share: the warmup, and how the parts are joined."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the rate rises linearly from zero to the peak, which it has at this step."""

    # Whether the rate at a step changes when the length of the run does.
    depends_on_total_steps: ClassVar[bool] = True

    def check(self, total_steps: int) -> None:
        """Raises ValueError if the schedule does not fit into `total_steps` steps."""
        assert total_steps > 0, total_steps
        if self.warmup_steps >= total_steps:
            raise ValueError(
                f"optim.schedule.warmup_steps is {self.warmup_steps}, but the run has "
                f"{total_steps} steps: allowed are 0 to {total_steps - 1}. Lower "
                "optim.schedule.warmup_steps or raise training.steps."
            )

    def build(self, peak: float, *, total_steps: int) -> optax.Schedule:
        """The function from a step (int or traced scalar) to the rate, a float32 scalar.

        Raises ValueError if the schedule does not fit into `total_steps` steps.
        """
        self.check(total_steps)
        return _after_warmup(self.main_part(peak, total_steps), peak, self.warmup_steps)

    @abstractmethod
    def main_part(self, peak: float, total_steps: int) -> optax.Schedule:
        """The schedule after the warmup, its steps counted from the end of the warmup."""


def _after_warmup(main: optax.Schedule, peak: float, warmup_steps: int) -> optax.Schedule:
    if warmup_steps == 0:
        return main
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, main], [warmup_steps])


class Constant(Schedule):
    """The peak for as long as the run lasts."""

    type: Literal["constant"] = "constant"
    """Constant rate after the warmup."""

    depends_on_total_steps: ClassVar[bool] = False

    def main_part(self, peak: float, total_steps: int) -> optax.Schedule:
        return optax.constant_schedule(peak)


class Linear(Schedule):
    """A straight line from the peak to the final rate at the end of the run."""

    type: Literal["linear"] = "linear"
    """Linear decay after the warmup."""

    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end of the run, as a fraction of the peak."""

    def main_part(self, peak: float, total_steps: int) -> optax.Schedule:
        return optax.linear_schedule(
            peak, peak * self.final_fraction, total_steps - self.warmup_steps
        )


class Cosine(Schedule):
    """Half a cosine from the peak to the final rate at the end of the run (arXiv:1608.03983)."""

    type: Literal["cosine"] = "cosine"
    """Cosine decay after the warmup."""

    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Rate at the end of the run, as a fraction of the peak."""

    def main_part(self, peak: float, total_steps: int) -> optax.Schedule:
        return optax.cosine_decay_schedule(
            peak, total_steps - self.warmup_steps, alpha=self.final_fraction
        )


class WarmupStableDecay(Schedule):
    """The peak for most of the run, then a straight line to the final rate (arXiv:2404.06395)."""

    type: Literal["wsd"] = "wsd"
    """Warmup, stable phase at the peak, linear decay."""

    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    """Length of the decay at the end, as a fraction of all steps."""

    final_fraction: float = Field(default=0.0, ge=0, le=1)
    """Rate at the end of the run, as a fraction of the peak."""

    def decay_steps(self, total_steps: int) -> int:
        """The length of the decay in steps: at least one."""
        return max(1, round(self.decay_fraction * total_steps))

    def check(self, total_steps: int) -> None:
        super().check(total_steps)
        decay_steps = self.decay_steps(total_steps)
        if self.warmup_steps + decay_steps > total_steps:
            raise ValueError(
                f"optim.schedule.warmup_steps is {self.warmup_steps} and "
                f"optim.schedule.decay_fraction {self.decay_fraction} asks for {decay_steps} "
                f"steps more, but the run has {total_steps} steps. Lower one of the two or raise "
                "training.steps."
            )

    def main_part(self, peak: float, total_steps: int) -> optax.Schedule:
        decay_steps = self.decay_steps(total_steps)
        stable_steps = total_steps - self.warmup_steps - decay_steps
        decay = optax.linear_schedule(peak, peak * self.final_fraction, decay_steps)
        return optax.join_schedules([optax.constant_schedule(peak), decay], [stable_steps])


ScheduleConfig = Annotated[
    Constant | Linear | Cosine | WarmupStableDecay, Field(discriminator="type")
]
