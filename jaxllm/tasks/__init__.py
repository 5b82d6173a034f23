"""What is done with examples: how predictions are scored, and said. One task a file.

A task ties an objective to a format of examples, to figures, and to answers in words.
"""

from typing import Any

from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.parallel.layouts import Layout
from jaxllm.tasks.base import Figures, Task
from jaxllm.tasks.classes import Classes

__all__ = ["Figures", "Task", "task_of"]

_TASKS: dict[str, type[Task]] = {"sequence_classification": Classes}


def task_of(
    objective: Any,
    model: Any,
    *,
    dataset: ExamplesConfig | None,
    tokenizer: Tokenizer | None,
    layout: Layout,
    rows: int,
) -> Task | None:
    """The task of an objective; None for one that is scored by its loss alone.

    dataset: how examples are read, of any dataset of the run. rows: of a batch, over all hosts.
    """
    kind = _TASKS.get(objective.type)
    if kind is None:
        return None
    assert dataset is not None
    assert tokenizer is not None
    return kind(objective, model, dataset=dataset, tokenizer=tokenizer, layout=layout, rows=rows)
