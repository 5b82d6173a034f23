"""What every task has: predictions of rows, figures of them, and answers.

B rows of a batch, N rows of a set.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows, ExamplesConfig
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.evaluation import Predicted, make_predict_step, predict_set
from jaxllm.evaluation.extras import check_finetune
from jaxllm.generation import BeamSearch
from jaxllm.nn.param import Nested, bind
from jaxllm.objectives.base import Batch
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.shard import global_batch


class Figures(Protocol):
    """How well a task is done."""

    def record(self, prefix: str) -> dict[str, float]:
        """The figures that are numbers, by name."""

    def describe(self) -> str:
        """The most telling ones in a line."""


class Task(ABC):
    """A task whose predictions are what its objective's `predict` computes of each row."""

    packages: ClassVar[tuple[str, ...]] = ()
    """What `figures` import beside jaxllm's own dependencies."""
    is_of_text: ClassVar[bool] = False
    """Whether what is scored are the tokens of texts, of which a perplexity says something."""

    def __init__(
        self,
        objective: Any,
        model: Any,
        *,
        dataset: ExamplesConfig,
        tokenizer: Tokenizer,
        layout: Layout,
        rows: int,
        length: int,
        search: BeamSearch,
    ) -> None:
        """dataset: how examples are read. rows: of a batch, over all hosts.

        length: the longest row, in tokens. search: how texts are written, where they are.
        """
        self.objective, self.model = objective, model
        self.dataset, self.tokenizer = dataset, tokenizer
        self._layout, self._rows = layout, rows
        self.length, self.search = length, search
        self._scored_step = make_predict_step(objective, model, layout)
        self._step = jax.jit(
            lambda params, batch: objective.predict(bind(model, params), batch, layout=layout),
            out_shardings=layout.sharding(),
        )

    def predict(
        self,
        params: Nested,
        sets: Mapping[str, Any],
        *,
        on_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, Predicted]:
        """The predictions of each validation set by its name. on_batch: see `score_sets`."""
        return {
            name: predict_set(
                self._scored_step,
                params,
                batches,
                layout=self._layout,
                rows=self._rows,
                on_batch=on_batch,
            )
            for name, batches in sets.items()
        }

    def check_figures(self) -> None:
        """ValueError where the packages are missing that figures need, before hours of training."""
        check_finetune(self.packages)

    @abstractmethod
    def figures(self, predicted: Sequence[Predicted]) -> Figures:
        """Of validation sets, all together."""

    def summary(self, figures: Any, data: Data, *, baseline: str | None) -> dict[str, Any]:
        """What summary.json says at the end, `told` to a person in lines among it.

        baseline: what the figures are compared with, see `EvaluationConfig`.
        """
        assert baseline is None, "the config's cross-checks come first"
        return figures.record("") | {"told": [figures.describe()]}

    def begin(self, params: Nested, batch: Batch) -> Any:
        """Give the devices the rows of a batch, and go on while they work."""
        whole = global_batch(self._layout, batch, rows=len(batch["example_index"]))
        return self._step(params, whole)

    def outputs(self, begun: Any) -> dict[str, np.ndarray]:
        """What the model made of the rows of a batch, (B, ...) by name; waits for the devices."""
        return jax.device_get(begun)

    @abstractmethod
    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """What is said of one example, as JSON.

        parts: the `outputs` of each row that the example has. numbers: of these rows in `rows`.
        """
