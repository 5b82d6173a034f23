"""Classes of whole texts: told, scored, and compared with what words alone tell.

N rows, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.corpus import SplitName
from jaxllm.data.examples import ExampleRows
from jaxllm.data.labelled_rows import LabelledRows
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.evaluation import ClassFigures, Predicted, class_figures, tfidf_figures
from jaxllm.tasks.base import Task


class Classes(Task):
    """Of each text, or pair of texts, its class."""

    dataset: LabelledTextsConfig

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in order."""
        return self.dataset.class_names

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
            by_words = self._by_words(data)
            summary |= {
                "baseline_accuracy": by_words.accuracy,
                "baseline_macro_f1": by_words.macro_f1,
            }
            told.append(
                f"baseline    {by_words.describe()} by TF-IDF and logistic regression on the same "
                f"rows: {_verdict(figures.macro_f1 - by_words.macro_f1)}"
            )
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

    def _by_words(self, data: Data) -> ClassFigures:
        """What the baseline tells of the validation rows."""
        names = [name for name in data.examples if name in data.training_sources]
        return tfidf_figures(
            _texts(data, names, "train"),
            _texts(data, list(data.examples), "validation"),
            num_classes=len(self.class_names),
        )


def _texts(data: Data, names: Iterable[str], split: SplitName) -> tuple[list[str], np.ndarray]:
    """The texts of the rows of a split as the model sees them, and their classes."""
    assert data.tokenizer is not None
    texts, labels = [], []
    for name in names:
        rows = data.examples[name].get(split)
        if rows is None:
            continue
        assert isinstance(rows, LabelledRows)
        for row in range(rows.num_rows):
            texts.append(" ".join(data.tokenizer.decode(ids) for ids in rows.text_tokens(row)))
            labels.append(rows.label(row))
    return texts, np.asarray(labels, np.int32)


def _verdict(gap: float) -> str:
    """Which of both is better, by how much more macro-F1 the model has."""
    if gap == 0:
        return "they are equal"
    return f"the {'model' if gap > 0 else 'baseline'} is better by {abs(gap):.4f} of macro-F1"
