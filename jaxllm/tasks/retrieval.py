"""Vectors of texts and pictures: how well pairs find each other, and the vectors themselves.

N pairs of a set.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxllm.data.captions import CaptionsConfig, closed_frame
from jaxllm.data.examples import ExampleRows
from jaxllm.evaluation import Predicted
from jaxllm.evaluation.retrieval import RetrievalFigures, retrieval_figures
from jaxllm.tasks.base import Task


class Retrieval(Task):
    """Of each text or picture, a vector; what belongs together is to be near each other."""

    def __init__(self, objective: Any, model: Any, **given: Any) -> None:
        """ValueError for two towers that look for another end of a text than the data puts."""
        super().__init__(objective, model, **given)
        if not isinstance(self.dataset, CaptionsConfig):
            return
        frame = closed_frame(self.tokenizer)
        end, wanted = int(frame.pieces[-1].ids[-1]), model.config.end_id
        highest = max(self.tokenizer.vocab_size - 1, end)
        if end != (highest if wanted is None else wanted):
            raise ValueError(
                f"model.end_id={'null' if wanted is None else wanted} looks for "
                f"{'the highest token' if wanted is None else 'that token'} at the end of a text, "
                f"but with this tokenizer each ends in {end}; set model.end_id={end}"
            )

    def figures(self, predicted: Sequence[Predicted]) -> RetrievalFigures:
        """Of all sets together: each is looked for among all of them."""
        sides = [
            np.concatenate([one.fields[name] for one in predicted])
            for name in self.objective.compared
        ]
        return retrieval_figures(*sides)

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The vector of a text or a picture, of length 1."""
        (outputs,) = parts
        # Of what is asked alone there is one of them.
        name = "embedding" if "embedding" in outputs else "image_embedding"
        return {"embedding": outputs[name].tolist()}
