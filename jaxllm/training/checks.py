"""When a step's arithmetic is checked: copies against each other, and a step against itself."""

from collections.abc import Callable
from typing import Any

import jax

from jaxllm.training.replicas import RepeatedStep, ReplicaCheck

_MOST = 0.99  # of the state's bytes, above which nothing is worth saying


class StepChecks:
    """Finds silent corruption at the steps that the config names; free at all others."""

    def __init__(
        self,
        abstract_state: Any,
        *,
        replicas_every: int | None,
        repeat_every: int | None,
        say: Callable[[str], None],
    ) -> None:
        """abstract_state: shapes and shardings. Both numbers are of steps; None is never.

        say: told how much of the state the comparison of copies cannot see.
        """
        self._replicas_every, self._repeat_every = replicas_every, repeat_every
        self._compare = ReplicaCheck(abstract_state) if replicas_every else None
        self._repeat = RepeatedStep(abstract_state) if repeat_every else None
        if self._compare is not None and self._compare.share < _MOST:
            say(
                f"training.replica_check_every sees {self._compare.share:.1%} of the state: "
                "all else is on one device only; training.repeat_check_every sees all"
            )

    def compute(
        self, step: int, compiled: Callable, state: Any, batch: Any
    ) -> tuple[Any, dict[str, jax.Array]]:
        """(state, metrics) of `compiled(state, batch)`; twice where it is due.

        StepMismatch, on every process, where the second time gave other bits.
        """
        if self._repeat is None or not _is_due(step, self._repeat_every):
            return compiled(state, batch)
        return self._repeat(step, compiled, state, batch)

    def compare(self, step: int, state: Any, *, is_saved: bool) -> None:
        """ReplicaMismatch, on every process, if devices hold different bits; where it is due.

        is_saved: whether this state is about to be saved, which makes it due, so that no checkpoint
        holds what a device got wrong.
        """
        if self._compare is not None and (is_saved or _is_due(step, self._replicas_every)):
            self._compare(step, state)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
