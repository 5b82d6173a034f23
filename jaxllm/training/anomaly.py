"""Bad steps: what makes one, how the compiled step leaves it out, and what the host says of it.

A step is bad where its loss or its gradient is not finite, or its loss is far above those before.
It then changes nothing but the count of steps: one NaN would otherwise stay in the weights for
ever. Where several come in a row the weights are to blame, not the data alone, and the run goes
back to a time before them (as arXiv:2204.02311, section 5.1, does by hand).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeInt, PositiveInt

from jaxllm.schema import Config

# Long enough that one odd batch does not move the mean, short enough to follow a falling loss.
_REMEMBERED_STEPS = 100
# The first losses are few, and fall fast from that of a uniform guess.
_UNJUDGED_STEPS = 20
# Nats. Of a model that knows its text nearly by heart, batches differ by any factor.
_LEAST_MEAN = 1.0


class AnomalyConfig(Config):
    """Which steps are left out because their loss or gradient is no good, and what follows."""

    max_loss_factor: float | None = Field(default=3.0, gt=1)
    """A step is skipped when its loss exceeds the running mean of those before, or 1 nat if that
    is more, this many times; null skips only losses and gradients that are not finite."""
    patience: PositiveInt = 5
    """Skipped steps in a row after which the run goes back to an earlier checkpoint."""
    max_rollbacks: NonNegativeInt = 3
    """Times that a run goes back; where once more is needed, it ends with an error."""

    def is_bad(
        self, guard: "GuardState", *, loss: jax.Array, gradient_norm: jax.Array
    ) -> jax.Array:
        """Whether a step of this loss and gradient is to be left out; bool scalar."""
        is_broken = ~(jnp.isfinite(loss) & jnp.isfinite(gradient_norm))
        if self.max_loss_factor is None:
            return is_broken
        limit = self.max_loss_factor * jnp.maximum(guard.mean_loss, _LEAST_MEAN)
        return is_broken | ((guard.accepted >= _UNJUDGED_STEPS) & (loss > limit))


class GuardState(NamedTuple):
    """What is remembered of the steps so far; scalars that every device holds.

    mean_loss: float32, in nats, of the accepted steps, the last ones weighing most. accepted: int32
    steps in that mean. skipped, skipped_in_a_row: int32 steps, in all and up to now.
    """

    mean_loss: jax.Array
    accepted: jax.Array
    skipped: jax.Array
    skipped_in_a_row: jax.Array

    def after(self, is_bad: jax.Array, loss: jax.Array, num_tokens: jax.Array) -> "GuardState":
        """The guard behind a step of this loss, which is 0 for a batch that scores nothing."""
        is_counted = ~is_bad & (num_tokens > 0)
        accepted = self.accepted + is_counted
        # Divided by the weights so far (as Adam's moments are), so that the mean is one at once.
        decay = 1 - 1 / _REMEMBERED_STEPS
        share = (1 - decay) / (1 - decay ** jnp.maximum(accepted, 1).astype(jnp.float32))
        mean = self.mean_loss + share * (loss - self.mean_loss)
        return GuardState(
            mean_loss=jnp.where(is_counted, mean, self.mean_loss),
            accepted=accepted,
            skipped=self.skipped + is_bad,
            skipped_in_a_row=jnp.where(is_bad, self.skipped_in_a_row + 1, 0),
        )

    def metrics(self) -> dict[str, jax.Array]:
        """What the guard adds to the metrics of the step it is behind, float32."""
        in_a_row = self.skipped_in_a_row.astype(jnp.float32)
        return {
            "is_skipped": jnp.minimum(in_a_row, 1.0),
            "skipped_in_a_row": in_a_row,
            "skipped_steps": self.skipped.astype(jnp.float32),
        }


def first_guard() -> GuardState:
    """The guard in front of the first step."""
    counts = (jnp.zeros((), jnp.int32) for _ in range(3))  # an array each, as they are donated
    return GuardState(jnp.zeros((), jnp.float32), *counts)


def kept_if(is_bad: jax.Array, old: Any, new: Any, *, platform: str) -> Any:
    """`old` where the step is bad, else `new`, bit for bit; trees of the same structure.

    A choice by element joins the loops of the update, and so costs neither memory nor traffic on a
    TPU (a branch, or a barrier, keeps both states: a quarter more memory, twice the traffic). On a
    CPU those loops are rounded as they are fused: a barrier there keeps the bits that the update
    has without a guard.
    """

    def kept(was: jax.Array, now: jax.Array) -> jax.Array:
        now = jax.lax.optimization_barrier(now) if platform == "cpu" else now
        return jnp.where(is_bad, was, now)

    return jax.tree.map(kept, old, new)


class Verdict(NamedTuple):
    """Of a skipped step. reason: in words, for people. in_a_row: skipped steps up to this one."""

    step: int
    reason: str
    loss: float
    gradient_norm: float
    in_a_row: int
    must_roll_back: bool

    @property
    def message(self) -> str:
        """One line for the console."""
        return (
            f"step {self.step} is skipped: {self.reason} "
            f"(loss {self.loss:.4g}, gradient norm {self.gradient_norm:.4g})"
        )


def judge(record: Mapping[str, Any], config: AnomalyConfig) -> Verdict | None:
    """What the metrics of a step, as numbers on the host, say of it; None if it was accepted."""
    if not record["is_skipped"]:
        return None
    loss, norm = float(record["loss"]), float(record["gradient_norm"])
    if not math.isfinite(loss):
        reason = "its loss is not finite"
    elif not math.isfinite(norm):
        reason = "its gradient is not finite"
    else:
        reason = f"its loss is more than {config.max_loss_factor:g} times the mean of those before"
    in_a_row = int(record["skipped_in_a_row"])
    return Verdict(int(record["step"]), reason, loss, norm, in_a_row, in_a_row >= config.patience)


class AnomalyWatch:
    """Reads of every step, whatever is logged, whether it was skipped, while the next one runs.

    Its answers are the same at the same step on every process, which what follows them relies on.
    """

    _READ = ("loss", "gradient_norm", "is_skipped", "skipped_in_a_row")

    def __init__(self, config: AnomalyConfig | None) -> None:
        """config: None watches nothing."""
        self._config = config
        self._pending: tuple[int, dict[str, jax.Array]] | None = None

    def push(self, step: int, metrics: Mapping[str, jax.Array]) -> Verdict | None:
        """Take the metrics of a step just dispatched; the verdict of the one before."""
        if self._config is None:
            return None
        taken = {name: metrics[name] for name in self._READ}
        for value in taken.values():
            value.copy_to_host_async()
        verdict = self.flush()
        self._pending = step, taken
        return verdict

    def flush(self) -> Verdict | None:
        """The verdict of the step that is held, waiting for it to finish. Call it before a save."""
        if self._pending is None or self._config is None:
            return None
        step, metrics = self._pending
        self._pending = None
        # One explicit transfer; anything implicit would be refused by the loop's guard.
        return judge({"step": step, **jax.device_get(metrics)}, self._config)
