"""Targets written for sources: translations, summaries.

N rows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows
from jaxllm.data.translations import TranslationRows, TranslationsConfig, target_tokenizer
from jaxllm.evaluation import Predicted, TranslationFigures, translation_figures
from jaxllm.generation import Translator
from jaxllm.generation.beam import Hypothesis
from jaxllm.nn.param import Nested
from jaxllm.objectives.base import Batch
from jaxllm.tasks.base import Task


class Translations(Task):
    """Of each source, its target."""

    packages = ("sacrebleu",)
    is_of_text = True
    dataset: TranslationsConfig

    def __init__(self, *given: Any, **options: Any) -> None:
        """ValueError for a model that ends targets by another token than the tokenizer does."""
        super().__init__(*given, **options)
        self._target = target_tokenizer(self.tokenizer)
        stops, config = self.tokenizer.stop_ids, self.model.config
        forbidden = {*self.tokenizer.kinds().special_ids, config.padding_id} - {*stops, None}
        self._writer = Translator(
            self.model,
            vocab_size=self.tokenizer.vocab_size,
            max_tokens=self.length,
            stop_ids=stops,
            forbidden_ids=sorted(forbidden),
            forced_id=_forced_id(config.forced_end_id, stops),
            search=self.search,
            layout=self._layout,
        )

    def predict(
        self,
        params: Nested,
        sets: Mapping[str, Any],
        *,
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, Predicted]:
        """The loss of true targets, and the targets that the model writes, `texts` (N,)."""
        scored = super().predict(params, sets, on_batch=on_batch)
        return {
            name: one._replace(
                fields={"texts": self._written(params, one.source, on_batch=on_batch)}
            )
            for name, one in scored.items()
        }

    def figures(self, predicted: Sequence[Predicted]) -> TranslationFigures:
        told: list[str] = []
        true: list[str] = []
        for one in predicted:
            told += one.fields["texts"].tolist()
            rows = range(one.source.num_rows)
            true += [self._target.decode(one.source.target(row)) for row in rows]
        return translation_figures(told, true)

    def summary(self, figures: Any, data: Data, *, baseline: str | None) -> dict[str, Any]:
        assert baseline is None, "the config's cross-checks come first"
        return figures.record("") | {
            "signature": figures.signature,
            "told": [f"translated  {figures.describe()}"],
        }

    def _written(
        self, params: Nested, rows: TranslationRows, *, on_batch: Callable[[], None]
    ) -> np.ndarray:
        """What is written for each row, (N,); sources of like length together."""
        order = np.argsort(-rows.sizes, kind="stable")
        texts = np.empty(rows.num_rows, object)
        for start in range(0, rows.num_rows, self._rows):
            numbers = order[start : start + self._rows]
            # A smaller last batch would be compiled by itself.
            filled = np.resize(numbers, self._rows)
            found = self.outputs(self.begin(params, rows.read(filled.tolist())))
            texts[numbers] = found["text"][: len(numbers)]
            on_batch()
        return texts

    def begin(self, params: Nested, batch: Batch) -> Any:
        """See `Task.begin`; it waits, as targets are written token by token."""
        sources = [
            tokens[mask > 0].tolist()
            for tokens, mask in zip(batch["encoder_tokens"], batch["encoder_mask"], strict=True)
        ]
        return self._writer.ranked(params, sources)

    def outputs(self, begun: Any) -> dict[str, np.ndarray]:
        """`text` of each row, and its `score`."""
        # Of logits that are not numbers no target is found.
        best = [found[0] if found else Hypothesis([], math.nan) for found in begun]
        return {
            "text": np.array([self._target.decode(one.ids) for one in best], object),
            "score": np.array([one.score for one in best], np.float32),
        }

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The target, and the log-likelihood that the search ranks it by."""
        (part,) = parts
        return {"target": str(part["text"]), "score": float(part["score"])}


def _forced_id(forced_id: int | None, stop_ids: Sequence[int]) -> int | None:
    """What ends the longest targets. ValueError for a token that would stand in their texts."""
    if forced_id is not None and forced_id not in stop_ids:
        raise ValueError(
            f"model.forced_end_id={forced_id} is no token that ends a text; with this tokenizer it "
            f"is one of {', '.join(map(str, stop_ids))}, or null"
        )
    return forced_id
