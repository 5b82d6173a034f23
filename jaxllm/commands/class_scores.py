"""Scores of a run that tells classes apart, and of what it is compared with."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxllm.commands.assembly import Assembly
from jaxllm.config import RunConfig
from jaxllm.data import Data
from jaxllm.data.corpus import SplitName
from jaxllm.evaluation import (
    ClassFigures,
    Predicted,
    class_figures,
    make_predict_step,
    predict_set,
    tfidf_figures,
)
from jaxllm.objectives import SequenceClassification


class ClassScores:
    """Predicts the class of each row of validation sets."""

    def __init__(self, config: RunConfig, parts: Assembly, *, rows: int | None = None) -> None:
        """rows: of a batch, over all hosts; by default those of training."""
        self._layout, self._rows = parts.layout, rows or config.data.global_batch_size
        self._step = make_predict_step(config.objective, parts.model, parts.layout)
        self._num_classes = parts.model.config.num_labels

    def predict(
        self, params: Any, sets: Mapping[str, Any], *, on_batch: Callable[[], None] = lambda: None
    ) -> dict[str, Predicted]:
        """The predictions of each set by its name. on_batch: see `score_sets`."""
        return {
            name: predict_set(
                self._step, params, batches, layout=self._layout, rows=self._rows, on_batch=on_batch
            )
            for name, batches in sets.items()
        }

    def figures(self, predicted: Iterable[Predicted]) -> ClassFigures:
        """Of all sets together."""
        fields = [one.fields for one in predicted]
        label_N = np.concatenate([one["label"] for one in fields])
        told_N = np.concatenate([one["logits"].argmax(axis=-1) for one in fields])
        return class_figures(label_N, told_N, num_classes=self._num_classes)


def tells_classes(config: RunConfig) -> bool:
    """Whether the run tells classes of texts apart."""
    return isinstance(config.objective, SequenceClassification)


def class_record(whole: ClassFigures, of_sets: Mapping[str, ClassFigures]) -> dict[str, float]:
    """What an evaluation record says of classes: of all sets, and of each if there are several."""
    record = whole.record("validation_")
    if len(of_sets) > 1:
        for name, figures in of_sets.items():
            record |= figures.record(f"validation/{name}/")
    return record


def describe_classes(figures: Mapping[str, Any], prefix: str = "") -> str:
    """The figures as a person reads them."""
    return (
        f"accuracy {figures[f'{prefix}accuracy']:.4f}, macro-F1 {figures[f'{prefix}macro_f1']:.4f}"
    )


def class_summary(config: RunConfig, data: Data, figures: ClassFigures) -> dict[str, Any]:
    """What summary.json says of classes; the baseline is computed here, if there is to be one."""
    examples = [one for one in config.data.datasets.values() if one.type == "examples"]
    summary = figures.record("") | {
        "confusion": figures.confusion,
        "class_names": list(examples[0].class_names),
    }
    if config.evaluation.baseline is not None:
        names = [name for name in data.examples if name in data.training_sources]
        baseline = tfidf_figures(
            _texts(data, names, "train"),
            _texts(data, list(data.examples), "validation"),
            num_classes=len(examples[0].class_names),
        )
        summary |= {
            "baseline_accuracy": baseline.accuracy,
            "baseline_macro_f1": baseline.macro_f1,
        }
    return summary


def _texts(data: Data, names: Iterable[str], split: SplitName) -> tuple[list[str], np.ndarray]:
    """The texts of the rows of a split as the model sees them, and their classes."""
    assert data.tokenizer is not None
    texts, labels = [], []
    for name in names:
        rows = data.examples[name].get(split)
        for row in range(0 if rows is None else rows.num_rows):
            assert rows is not None
            texts.append(" ".join(data.tokenizer.decode(ids) for ids in rows.text_tokens(row)))
            labels.append(rows.label(row))
    return texts, np.asarray(labels, np.int32)


def ending_lines(summary: Mapping[str, Any]) -> list[str]:
    """What a person is told at the end, also that the baseline is better where it is."""
    if "accuracy" not in summary:
        return []
    lines = [f"classes     {describe_classes(summary)}, Matthews {summary['matthews']:.4f}"]
    if "baseline_accuracy" in summary:
        gap = summary["macro_f1"] - summary["baseline_macro_f1"]
        better = (
            "they are equal" if gap == 0 else f"the {'model' if gap > 0 else 'baseline'} is better"
        )
        verdict = better if gap == 0 else f"{better} by {abs(gap):.4f} of macro-F1"
        lines.append(
            f"baseline    {describe_classes(summary, 'baseline_')} by "
            f"TF-IDF and logistic regression on the same rows: {verdict}"
        )
    return lines
