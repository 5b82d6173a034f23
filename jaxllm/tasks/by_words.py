"""What words alone tell of the texts of a run, to compare a model with.

N rows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data import Data
from jaxllm.data.corpus import SplitName
from jaxllm.data.labelled_rows import LabelledRows

Learner = Callable[[tuple[Sequence[str], np.ndarray], Sequence[str]], np.ndarray]
"""(texts and what they are labelled with, other texts) -> what these are told to be."""


class ToldByWords(NamedTuple):
    """Of the validation rows: what they are labelled with, and what their words tell."""

    label: np.ndarray
    told: np.ndarray


def told_by_words(data: Data, learner: Learner) -> ToldByWords:
    """What a learner of words makes of the validation rows, from the training rows."""
    names = [name for name in data.examples if name in data.training_sources]
    texts, label = _texts(data, data.examples, "validation")
    return ToldByWords(label, learner(_texts(data, names, "train"), texts))


def _texts(data: Data, names: Iterable[str], split: SplitName) -> tuple[list[str], np.ndarray]:
    """The texts of the rows of a split as the model sees them, and what they are labelled with."""
    assert data.tokenizer is not None
    texts: list[str] = []
    labels = []
    for name in names:
        rows = data.examples[name].get(split)
        if rows is None:
            continue
        assert isinstance(rows, LabelledRows)
        for row in range(rows.num_rows):
            texts.append(" ".join(data.tokenizer.decode(ids) for ids in rows.text_tokens(row)))
        labels.append(rows.labels(range(rows.num_rows)))
    return texts, np.concatenate(labels)


def comparison(model: Any, words: Any, *, by: str, what: str, is_better_low: bool = False) -> str:
    """A line that tells the figures of words, and whether the model's are better.

    by: what the words were told with. what: the figure that decides, by its field.
    """
    gap = getattr(model, what) - getattr(words, what)
    if is_better_low:
        gap = -gap
    verdict = "they are equal"
    if gap:
        named = what.replace("macro_f1", "macro-F1").replace("_", " ")
        verdict = f"the {'model' if gap > 0 else 'baseline'} is better by {abs(gap):.4f} of {named}"
    return f"baseline    {words.describe()} by TF-IDF and {by} on the same rows: {verdict}"
