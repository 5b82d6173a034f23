"""Classes of whole texts: told, scored, and compared with what words alone tell.

N rows, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.evaluation import ClassFigures, Predicted, class_figures
from jaxllm.evaluation.by_words import class_by_words
from jaxllm.tasks.base import Task
from jaxllm.tasks.by_words import comparison, told_by_words


class Classes(Task):
    """Of each text, or pair of texts, its class."""

    packages = ("sklearn",)
    dataset: LabelledTextsConfig

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in order."""
        names = self.dataset.class_names
        assert names is not None, "the data tells them, if the config does not"
        return names

    def figures(self, predicted: Sequence[Predicted]) -> ClassFigures:
        fields = [one.fields for one in predicted]
        label_N = np.concatenate([one["label"] for one in fields])
        told_N = np.concatenate([one["logits"].argmax(axis=-1) for one in fields])
        return class_figures(label_N, told_N, num_classes=len(self.class_names))

    def summary(self, figures: ClassFigures, data: Data, *, baseline: str | None) -> dict[str, Any]:
        summary = figures.record("") | {
            "confusion": figures.confusion,
            "class_names": list(self.class_names),
        }
        told = [f"classes     {figures.describe()}, Matthews {figures.matthews:.4f}"]
        if baseline is not None:
            by_words = told_by_words(data, class_by_words)
            words = class_figures(*by_words, num_classes=len(self.class_names))
            summary |= {
                "baseline_accuracy": words.accuracy,
                "baseline_macro_f1": words.macro_f1,
            }
            told.append(comparison(figures, words, by="logistic regression", what="macro_f1"))
        return summary | {"told": told}

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The likeliest class, and how likely each is: the mean over the parts of a long text."""
        logits_NC = np.stack([part["logits"] for part in parts]).astype(np.float64)
        likely_NC = np.exp(logits_NC - logits_NC.max(axis=-1, keepdims=True))
        likely_C = (likely_NC / likely_NC.sum(axis=-1, keepdims=True)).mean(axis=0)
        return {
            "label": self.class_names[int(likely_C.argmax())],
            "probabilities": dict(zip(self.class_names, likely_C.tolist(), strict=True)),
        }
