"""Objectives: a model and a batch -> a loss. One file each."""

from jaxllm.objectives.base import LossSums, Model
from jaxllm.objectives.causal_lm import CausalLm

__all__ = ["CausalLm", "LossSums", "Model"]
