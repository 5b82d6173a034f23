"""Objectives that predict something of each row, and score that."""

from abc import abstractmethod
from typing import Any, ClassVar

import jax

from jaxllm.objectives.base import Batch, LossSums, Objective
from jaxllm.parallel.layouts import Layout


class PredictingObjective(Objective):
    """The loss is one of predictions, which tasks and `jaxllm predict` make use of too."""

    label_fields: ClassVar[tuple[str, ...]] = ("label",)
    """The fields of a batch that predictions are compared with; none where with each other."""

    def __call__(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> LossSums:
        """Sums over what loss_mask turns on."""
        found = self.predict(model, batch, keys_B=keys_B, layout=layout)
        return self.sums(found, batch, layout=layout)

    @abstractmethod
    def predict(
        self,
        model: Any,
        batch: Batch,
        *,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> dict[str, jax.Array]:
        """What the model makes of each row, (B, ...) by name; the batch needs no labels."""

    @abstractmethod
    def sums(
        self, predictions: dict[str, jax.Array], batch: Batch, *, layout: Layout | None = None
    ) -> LossSums:
        """The loss of predictions of a batch with its labels and its loss_mask."""
