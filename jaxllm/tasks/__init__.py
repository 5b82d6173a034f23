"""What is done with examples: how predictions are scored, and said. One task a file.

A task ties an objective to a format of examples, to figures, and to answers in words.
"""

from typing import Any

from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.generation import BeamSearch
from jaxllm.parallel.layouts import Layout
from jaxllm.tasks.answers import Answers
from jaxllm.tasks.base import Figures, Task
from jaxllm.tasks.classes import Classes
from jaxllm.tasks.entities import Entities
from jaxllm.tasks.label_sets import LabelSets
from jaxllm.tasks.numbers import Numbers
from jaxllm.tasks.retrieval import Retrieval
from jaxllm.tasks.translations import Translations

__all__ = ["Figures", "Task", "task_of"]

_TASKS: dict[str, type[Task]] = {
    "sequence_classification": Classes,
    "sequence_regression": Numbers,
    "token_classification": Entities,
    "question_answering": Answers,
    "seq2seq": Translations,
    "image_classification": Classes,
    "contrastive": Retrieval,
    "image_text": Retrieval,
}


def task_of(
    objective: Any,
    model: Any,
    *,
    dataset: ExamplesConfig | None,
    tokenizer: Tokenizer | None,
    layout: Layout,
    rows: int,
    length: int,
    search: BeamSearch,
) -> Task | None:
    """The task of an objective; None for one that is scored by its loss alone.

    dataset: how examples are read, of any dataset of the run. Others: see `Task`.
    """
    is_multi_label = getattr(objective, "is_multi_label", False)
    kind = LabelSets if is_multi_label else _TASKS.get(objective.type)
    if kind is None:
        return None
    assert dataset is not None
    assert tokenizer is not None
    return kind(
        objective,
        model,
        dataset=dataset,
        tokenizer=tokenizer,
        layout=layout,
        rows=rows,
        length=length,
        search=search,
    )
