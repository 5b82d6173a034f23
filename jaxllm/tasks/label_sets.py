"""Classes of whole texts that have any number of them.

N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.evaluation import Predicted
from jaxllm.evaluation.by_words import classes_by_words
from jaxllm.evaluation.label_sets import LabelSetFigures, label_set_figures
from jaxllm.tasks.base import Task
from jaxllm.tasks.by_words import comparison, told_by_words

_LIKELY = 0.5  # from here on a class is told


class LabelSets(Task):
    """Of each text, or pair of texts, which classes it has."""

    packages = ("sklearn",)
    dataset: LabelledTextsConfig

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in order."""
        names = self.dataset.class_names
        assert names is not None
        return names

    def figures(self, predicted: Sequence[Predicted]) -> LabelSetFigures:
        fields = [one.fields for one in predicted]
        label_NC = np.concatenate([one["label"] for one in fields])
        logits_NC = np.concatenate([one["logits"] for one in fields])
        return label_set_figures(label_NC, _probabilities(logits_NC) >= _LIKELY)

    def summary(
        self, figures: LabelSetFigures, data: Data, *, baseline: str | None
    ) -> dict[str, Any]:
        summary: dict[str, Any] = figures.record("") | {"class_names": list(self.class_names)}
        told = [f"classes     {figures.describe()}"]
        if baseline is not None:
            words = label_set_figures(*told_by_words(data, classes_by_words))
            summary |= words.record("baseline_")
            by = "a logistic regression for each class"
            told.append(comparison(figures, words, by=by, what="macro_f1"))
        return summary | {"told": told}

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The likely classes, and how likely each is: the mean over the parts of a long text."""
        likely_C = _probabilities(np.stack([part["logits"] for part in parts])).mean(axis=0)
        likely = dict(zip(self.class_names, likely_C.tolist(), strict=True))
        told = [name for name, probability in likely.items() if probability >= _LIKELY]
        return {"labels": told, "probabilities": likely}


def _probabilities(logits: np.ndarray) -> np.ndarray:
    """The sigmoid, which no logit is too large for."""
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
