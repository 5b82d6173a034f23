"""Objectives: a model and a batch -> a loss. One file each."""

from typing import Annotated

from pydantic import Field

from jaxllm.objectives.base import LossSums, Model, Vocabulary
from jaxllm.objectives.causal_lm import CausalLm
from jaxllm.objectives.masked_lm import MaskedLm
from jaxllm.objectives.sequence_classification import SequenceClassification

__all__ = [
    "CausalLm",
    "LossSums",
    "MaskedLm",
    "Model",
    "ObjectiveConfig",
    "SequenceClassification",
    "Vocabulary",
]

ObjectiveConfig = Annotated[
    CausalLm | MaskedLm | SequenceClassification, Field(discriminator="type")
]
