"""What an exported folder says of the classes that a run tells."""

from typing import Any

from jaxllm.commands.batches import examples_of
from jaxllm.config import RunConfig
from jaxllm.hf.label_names import ProblemType, label_keys
from jaxllm.objectives import ImageClassification, SequenceClassification, SequenceRegression


def exported_labels(config: RunConfig) -> dict[str, Any]:
    """The keys of a config.json: names of classes, and what they were trained with."""
    problem: ProblemType | None = None
    match config.objective:
        case SequenceClassification(is_multi_label=True):
            problem = "multi_label_classification"
        case SequenceClassification() | ImageClassification():
            problem = "single_label_classification"
        case SequenceRegression():
            problem = "regression"
    return label_keys(
        getattr(examples_of(config), "class_names", None),
        num_labels=getattr(config.model, "num_labels", None),
        problem_type=problem,
    )
