"""Optimizers, learning-rate schedules and the moving average of the weights, through Optax."""

from typing import Annotated

from pydantic import Field

from jaxllm.optim.adafactor import Adafactor
from jaxllm.optim.adagrad import Adagrad
from jaxllm.optim.adam import Adam
from jaxllm.optim.adamw import AdamW
from jaxllm.optim.ema import EmaConfig
from jaxllm.optim.lion import Lion
from jaxllm.optim.muon import Muon
from jaxllm.optim.schedules import ScheduleConfig
from jaxllm.optim.sgd import Sgd
from jaxllm.optim.state_axes import state_axes

OptimizerConfig = Annotated[
    Sgd | Adagrad | Adam | AdamW | Adafactor | Lion | Muon, Field(discriminator="type")
]

__all__ = [
    "OptimizerConfig",
    "ScheduleConfig",
    "EmaConfig",
    "Sgd",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adafactor",
    "Lion",
    "Muon",
    "state_axes",
]
