"""Entities: words that tags tell together, and their types.

W words of an example, T length of a row, C tags.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.entity_tags import OUTSIDE, entities_of
from jaxllm.data.examples import ExampleRows
from jaxllm.data.tagged_rows import TaggedRows
from jaxllm.data.tagged_texts import TaggedTextsConfig
from jaxllm.evaluation import EntityFigures, Predicted, entity_figures
from jaxllm.tasks.base import Task


class Entities(Task):
    """The entities of each text."""

    packages = ("seqeval",)
    dataset: TaggedTextsConfig

    def figures(self, predicted: Sequence[Predicted]) -> EntityFigures:
        """Of whole entities: one is right where all of its words and its type are."""
        labels, told = [], []
        for one in predicted:
            rows = one.source
            assert isinstance(rows, TaggedRows)
            names = np.asarray(self.dataset.tags)
            found: list[list[str]] = [[] for _ in range(rows.num_examples)]
            for row, logits_TC in enumerate(one.fields["logits"]):
                found[rows.example_of(row)] += self._tags(logits_TC, rows.places(row))[0]
            labels += [names[rows.labels(number)].tolist() for number in range(rows.num_examples)]
            told += found
        return entity_figures(labels, told)

    def summary(
        self, figures: EntityFigures, data: Data, *, baseline: str | None
    ) -> dict[str, Any]:
        """The figures by type of entity, too."""
        whole = super().summary(figures, data, baseline=baseline)
        told = [f"entities    {figures.describe()}"]
        for type_, of_type in figures.by_type.items():
            told.append(f"  {type_}: F1 {of_type['f1']:.4f} of {of_type['count']:,.0f}")
        return whole | {"by_type": figures.by_type, "told": told}

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The entities of a text, in order.

        Where each starts and ends: characters of a text, or numbers of words of a list of words,
        the end not included. Its score: the mean likelihood of its tags.
        """
        assert isinstance(rows, TaggedRows)
        tags: list[str] = []
        scores: list[float] = []
        for part, number in zip(parts, numbers, strict=True):
            one, other = self._tags(part["logits"], rows.places(number))
            tags += one
            scores += other
        text, places_W4 = rows.words(rows.example_of(numbers[0]))
        entities = []
        for first, stop, type_ in entities_of(tags):
            begin, start = places_W4[first, [0, 2]].tolist()
            end, told_end = places_W4[stop - 1, [1, 3]].tolist()
            entities.append(
                {
                    "text": text[begin:end],
                    "label": type_,
                    "start": start,
                    "end": told_end,
                    "score": float(np.mean(scores[first:stop])),
                }
            )
        return {"entities": entities}

    def _tags(self, logits_TC: np.ndarray, places: Iterable[int]) -> tuple[list[str], list[float]]:
        """The likeliest tag of each word of a row, and how likely it is."""
        tags, scores = [], []
        for place in places:
            if place < 0:  # of a word that the tokenizer makes nothing of
                tags.append(OUTSIDE)
                scores.append(1.0)
                continue
            logits_C = logits_TC[place].astype(np.float64)
            likely_C = np.exp(logits_C - logits_C.max())
            tags.append(self.dataset.tags[int(likely_C.argmax())])
            scores.append(float(likely_C.max() / likely_C.sum()))
        return tags, scores
