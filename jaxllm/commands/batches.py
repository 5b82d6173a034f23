"""What the data of a run are to its objective: what a batch has, and what is done with it."""

import jax

from jaxllm.commands.assembly import Assembly
from jaxllm.config import RunConfig
from jaxllm.data import Data
from jaxllm.data.batch import batch_shapes
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.tokenizer import Tokenizer
from jaxllm.objectives import PrefixLm, SpanCorruption, Vocabulary
from jaxllm.objectives.base import Arrange
from jaxllm.objectives.predicting import PredictingObjective
from jaxllm.tasks import Task, task_of


def abstract_batch(config: RunConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the fields of a batch, as the config alone tells them.

    ValueError where only a dataset would tell, and there is none.
    """
    rows, length = config.data.global_batch_size, config.data.sequence_length
    examples = examples_of(config)
    if examples is None and needs_examples(config):
        raise ValueError(
            f"data.datasets is empty, but objective.type={config.objective.type} learns from "
            "examples, whose dataset says what a batch has; give one"
        )
    fields = batch_shapes(rows, length) if examples is None else examples.shapes(rows, length)
    if isinstance(config.objective, PrefixLm | SpanCorruption):
        return config.objective.arranged(fields)
    return fields


def examples_of(config: RunConfig) -> ExamplesConfig | None:
    """How examples are read, the same in all datasets of them; None in a run on texts."""
    for dataset in config.data.datasets.values():
        if isinstance(dataset, ExamplesConfig):
            return dataset
    return None


def needs_examples(config: RunConfig) -> bool:
    """Whether a run learns from examples alone; conversations are read as texts are."""
    return isinstance(config.objective, PredictingObjective)


def task(
    config: RunConfig, parts: Assembly, tokenizer: Tokenizer | None, *, rows: int
) -> Task | None:
    """What the run does with examples; None where its loss says all. rows: of a batch."""
    return task_of(
        config.objective,
        parts.model,
        dataset=examples_of(config),
        tokenizer=tokenizer,
        layout=parts.layout,
        rows=rows,
        length=config.data.sequence_length,
        search=config.evaluation.search,
    )


def arrangement(config: RunConfig, data: Data, *, seed: int) -> Arrange | None:
    """What the objective makes of rows of the data; None where it reads them as they are.

    ValueError for an objective that needs to know more of the tokens than the tokenizer says.
    """
    return config.objective.arrangement(_vocabulary(data), seed=seed)


def num_ids(config: RunConfig, data: Data) -> int:
    """Ids that the data and the objective use."""
    return config.objective.num_ids(_vocabulary(data))


def _vocabulary(data: Data) -> Vocabulary:
    return Vocabulary(data.vocab_size, *data.kinds, delimiter_id=data.delimiter_id)
