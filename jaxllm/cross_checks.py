"""What no section of a config can see by itself: whether sections fit together."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxllm.checkpoints import CheckpointConfig
from jaxllm.data import DataConfig
from jaxllm.evaluation import EvaluationConfig
from jaxllm.generation import SampleConfig
from jaxllm.models import (
    DecoderConfig,
    ModelConfig,
)
from jaxllm.nn.adapters import AdapterConfig
from jaxllm.objective_checks import OBJECTIVE_CHECKS
from jaxllm.optim import OptimizerConfig
from jaxllm.training.profile import ProfileConfig
from jaxllm.training.step import TrainingConfig


def _microbatches_fit(data: DataConfig, training: TrainingConfig) -> Iterator[str]:
    rows, parts = data.global_batch_size, training.num_microbatches
    if rows % parts:
        yield f"training.num_microbatches={parts} does not divide data.global_batch_size={rows}"


def _rows_fit(model: ModelConfig, data: DataConfig) -> Iterator[str]:
    try:
        model.check_length(data.sequence_length, key="data.sequence_length")
    except ValueError as error:
        yield str(error)


def _schedule_fits(optim: OptimizerConfig, training: TrainingConfig) -> Iterator[str]:
    try:
        optim.schedule.check(training.steps)
    except ValueError as error:
        yield str(error)


def _frozen_weights_are_there(
    init_from: Any, adapter: AdapterConfig | None, training: TrainingConfig
) -> Iterator[str]:
    if adapter is not None and training.frozen:
        yield "training.frozen is given, but with an adapter all other weights stay as they are"
    key = "adapter" if adapter is not None else "training.frozen"
    if init_from is None and (adapter is not None or training.frozen):
        yield (
            f"{key} is given, but init_from is null: weights that are not trained are not saved "
            "by the run, and are read from init_from at each start"
        )


def _best_are_scored(checkpoints: CheckpointConfig, evaluation: EvaluationConfig) -> Iterator[str]:
    scored, saved = evaluation.every, checkpoints.every
    if checkpoints.keep_best and (scored is None or saved is None or saved % scored):
        yield (
            f"checkpoints.keep_best={checkpoints.keep_best} needs the validation loss of "
            f"every checkpoint, but checkpoints.every={saved} is no multiple of "
            f"evaluation.every={scored}"
        )


def _text_is_made(
    model: ModelConfig, evaluation: EvaluationConfig, samples: SampleConfig
) -> Iterator[str]:
    if isinstance(model, DecoderConfig):
        return
    given = {
        "samples.every": samples.every is not None,
        "evaluation.tasks": bool(evaluation.tasks),
        "evaluation.compare_xz": evaluation.compare_xz,
    }
    for key, is_given in given.items():
        if is_given:
            yield (
                f"{key} is given, but a model of type {model.type} continues no text; leave it out"
            )


def _profile_fits(profile: ProfileConfig, training: TrainingConfig) -> Iterator[str]:
    if profile.start is not None and profile.start + profile.steps > training.steps:
        yield (
            f"profile.start={profile.start} and profile.steps={profile.steps} reach beyond "
            f"training.steps={training.steps}"
        )


def _compared_text_is_there(data: DataConfig, evaluation: EvaluationConfig) -> Iterator[str]:
    if evaluation.compare_xz:
        for name, dataset in data.datasets.items():
            if dataset.type != "corpus" or not dataset.validation_every:
                yield (
                    f"evaluation.compare_xz needs the raw validation text, but "
                    f"data.datasets.{name} is not of type corpus with validation_every above 0"
                )


# Each is given the sections that its parameters name, and yields what does not fit.
CROSS_CHECKS: tuple[Callable[..., Iterator[str]], ...] = (
    _microbatches_fit,
    _rows_fit,
    _schedule_fits,
    _frozen_weights_are_there,
    _best_are_scored,
    _profile_fits,
    _compared_text_is_there,
    *OBJECTIVE_CHECKS,
    _text_is_made,
)
