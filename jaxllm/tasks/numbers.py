"""Numbers of whole texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows
from jaxllm.evaluation import Predicted
from jaxllm.evaluation.by_words import number_by_words
from jaxllm.evaluation.correlation import NumberFigures, number_figures
from jaxllm.tasks.base import Task
from jaxllm.tasks.by_words import comparison, told_by_words


class Numbers(Task):
    """Of each text, or pair of texts, its number."""

    packages = ("scipy",)

    def figures(self, predicted: Sequence[Predicted]) -> NumberFigures:
        label_N, told_N = (
            np.concatenate([one.fields[name] for one in predicted]) for name in ("label", "value")
        )
        return number_figures(label_N, told_N)

    def summary(
        self, figures: NumberFigures, data: Data, *, baseline: str | None
    ) -> dict[str, Any]:
        summary: dict[str, Any] = figures.record("")
        told = [f"numbers     {figures.describe()}"]
        if baseline is not None:
            words = number_figures(*told_by_words(data, number_by_words))
            summary |= words.record("baseline_")
            what = "mean_squared_error"
            told.append(
                comparison(figures, words, by="ridge regression", what=what, is_better_low=True)
            )
        return summary | {"told": told}

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The number: the mean over the parts of a long text."""
        return {"value": float(np.mean([part["value"] for part in parts], dtype=np.float64))}
