"""Objectives: a model and a batch -> a loss. One file each."""

from typing import Annotated, get_args

from pydantic import Field

from jaxllm.objectives.base import LossSums, Model, Vocabulary
from jaxllm.objectives.causal_lm import CausalLm
from jaxllm.objectives.contrastive import Contrastive
from jaxllm.objectives.image_classification import ImageClassification
from jaxllm.objectives.image_text import ImageText
from jaxllm.objectives.masked_lm import MaskedLm
from jaxllm.objectives.prefix_lm import PrefixLm
from jaxllm.objectives.question_answering import QuestionAnswering
from jaxllm.objectives.seq2seq import Seq2Seq
from jaxllm.objectives.sequence_classification import SequenceClassification
from jaxllm.objectives.sequence_regression import SequenceRegression
from jaxllm.objectives.span_corruption import SpanCorruption
from jaxllm.objectives.token_classification import TokenClassification

__all__ = [
    "CausalLm",
    "Contrastive",
    "ImageClassification",
    "ImageText",
    "LossSums",
    "MaskedLm",
    "Model",
    "ObjectiveConfig",
    "PrefixLm",
    "QuestionAnswering",
    "Seq2Seq",
    "SequenceClassification",
    "SequenceRegression",
    "SpanCorruption",
    "TokenClassification",
    "Vocabulary",
    "loss_unit",
]

ObjectiveConfig = Annotated[
    CausalLm
    | Contrastive
    | ImageClassification
    | ImageText
    | MaskedLm
    | PrefixLm
    | QuestionAnswering
    | Seq2Seq
    | SequenceClassification
    | SequenceRegression
    | SpanCorruption
    | TokenClassification,
    Field(discriminator="type"),
]


def loss_unit(type_name: str | None) -> str:
    """What the shown loss of an objective counts, by its type; None is that of next tokens."""
    union, _ = get_args(ObjectiveConfig)
    units = {kind.model_fields["type"].default: kind.loss_unit for kind in get_args(union)}
    return units.get(type_name, CausalLm.loss_unit)
