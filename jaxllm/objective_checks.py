"""Whether an objective fits the network that it trains, and the data that it reads."""

from collections.abc import Callable, Iterator
from typing import Any

from jaxllm.data import DataConfig
from jaxllm.data.captions import CaptionsConfig
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.pictures import PicturesConfig
from jaxllm.data.questions import QuestionsConfig
from jaxllm.evaluation import EvaluationConfig
from jaxllm.models import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TwoTowersConfig,
    VisionConfig,
)
from jaxllm.objectives import (
    Contrastive,
    ImageClassification,
    ImageText,
    ObjectiveConfig,
    PrefixLm,
    SequenceClassification,
    SequenceRegression,
    SpanCorruption,
)
from jaxllm.training.step import TrainingConfig

# Of each objective: the networks that it trains, their head if they have several, and the kind of
# datasets that it reads if these are examples.
_NETWORKS: dict[str, tuple[str, ...]] = {
    "causal_lm": ("decoder",),
    "masked_lm": ("encoder",),
    "prefix_lm": ("decoder", "encoder_decoder"),
    "span_corruption": ("encoder_decoder",),
    "seq2seq": ("encoder_decoder",),
    "sequence_classification": ("encoder",),
    "sequence_regression": ("encoder",),
    "token_classification": ("encoder",),
    "question_answering": ("encoder",),
    "image_classification": ("vision",),
    "contrastive": ("encoder",),
    "image_text": ("two_towers",),
}
_HEADS: dict[str, tuple[str, ...]] = {
    "masked_lm": ("masked_lm",),
    "sequence_classification": ("sequence",),
    "sequence_regression": ("sequence",),
    "token_classification": ("token",),
    "question_answering": ("span",),
    "image_classification": ("image",),
    "contrastive": ("none", "pooler"),
}
_EXAMPLES = {
    "seq2seq": "translations",
    "sequence_classification": "labelled_texts",
    "sequence_regression": "labelled_texts",
    "token_classification": "tagged_texts",
    "question_answering": "questions",
    "image_classification": "pictures",
    "contrastive": "text_pairs",
    "image_text": "captions",
}

# Examples that make the same batches as texts do, and may be mixed with these.
_EXAMPLES_AS_TEXTS = {"causal_lm": "chats"}


def _objective_fits(model: ModelConfig, objective: ObjectiveConfig) -> Iterator[str]:
    networks = _NETWORKS[objective.type]
    if model.type not in networks:
        fitting = [name for name, kinds in _NETWORKS.items() if model.type in kinds]
        yield (
            f"objective.type={objective.type} trains model.type={' or '.join(networks)}, but "
            f"model.type={model.type} is given; for this model take objective.type="
            f"{' or '.join(fitting)}"
        )
    elif isinstance(model, EncoderConfig | VisionConfig) and model.head not in (
        heads := _HEADS[objective.type]
    ):
        yield (
            f"objective.type={objective.type} needs model.head={' or '.join(heads)}, but it is "
            f"{model.head}"
        )


def _spans_fit(data: DataConfig, objective: ObjectiveConfig) -> Iterator[str]:
    if isinstance(objective, SpanCorruption):
        try:
            objective.spans(data.sequence_length)
        except ValueError as error:
            yield str(error)


def _prefixes_fit(
    model: ModelConfig, objective: ObjectiveConfig, evaluation: EvaluationConfig
) -> Iterator[str]:
    if not isinstance(model, DecoderConfig) or not isinstance(objective, PrefixLm):
        return
    if model.latent is not None:
        yield (
            "objective.type=prefix_lm, but model.latent sees no token of a prefix before its "
            "turn; leave model.latent out, or take objective.type=causal_lm"
        )
    given = {
        "evaluation.tasks": bool(evaluation.tasks),
        "evaluation.compare_xz": evaluation.compare_xz,
    }
    for key, is_given in given.items():
        if is_given:
            yield (
                f"{key} is given, but it takes the likelihood of whole texts, which "
                "objective.type=prefix_lm does not tell; leave it out"
            )


def _batches_are_whole(objective: ObjectiveConfig, training: TrainingConfig) -> Iterator[str]:
    if isinstance(objective, Contrastive | ImageText) and training.num_microbatches > 1:
        yield (
            f"training.num_microbatches={training.num_microbatches}, but objective.type="
            f"{objective.type} tells each pair from all others of the batch, of which a part has "
            "fewer; set it to 1, and lower data.global_batch_size or take more devices, or "
            "model.remat=full, if memory is short"
        )


def _pixels_fit(model: ModelConfig, objective: ObjectiveConfig) -> Iterator[str]:
    vision = model.vision if isinstance(model, TwoTowersConfig) else model
    if isinstance(vision, VisionConfig) and isinstance(objective, ImageClassification | ImageText):
        try:
            objective.pixels.check_channels(vision.num_channels)
        except ValueError as error:
            yield str(error)


def _pictures_fit(model: ModelConfig, data: DataConfig) -> Iterator[str]:
    vision = model.vision if isinstance(model, TwoTowersConfig) else model
    if not isinstance(vision, VisionConfig):
        return
    key = "model.vision." if vision is not model else "model."
    for name, one in data.datasets.items():
        if not isinstance(one, PicturesConfig | CaptionsConfig):
            continue
        for ours, size, theirs in (
            ("size", one.size, "image_size"),
            ("num_channels", one.num_channels, "num_channels"),
        ):
            if size != getattr(vision, theirs):
                yield (
                    f"data.datasets.{name}.{ours}={size}, but {key}{theirs}="
                    f"{getattr(vision, theirs)}; make them equal"
                )


def _data_fits(data: DataConfig, objective: ObjectiveConfig) -> Iterator[str]:
    wanted = _EXAMPLES.get(objective.type)
    for name, dataset in data.datasets.items():
        kind = dataset.type if isinstance(dataset, ExamplesConfig) else None
        if kind in (wanted, _EXAMPLES_AS_TEXTS.get(objective.type, wanted)):
            continue
        reading = [*_EXAMPLES.items(), *_EXAMPLES_AS_TEXTS.items()]
        fitting = [one for one, read in reading if read == kind]
        advice = []
        if wanted is not None:
            advice.append(f"give one of type {wanted}")
        if kind is not None:
            advice.append(f"for this one take objective.type={' or '.join(fitting)}")
        yield (
            f"data.datasets.{name} is of type {dataset.type}, which objective.type="
            f"{objective.type} does not read; {', or '.join(advice)}"
        )


def _examples_are_alike(data: DataConfig) -> Iterator[str]:
    """All datasets of a run make batches of the same fields, with the same classes."""
    examples = {n: one for n, one in data.datasets.items() if isinstance(one, ExamplesConfig)}
    labelled = [one for one in examples.values() if isinstance(one, LabelledTextsConfig)]
    alike: dict[str, set[Any]] = {
        # None is not known before the data is read.
        "the same classes": {getattr(one, "class_names", None) for one in examples.values()}
        - {None},
        "all of them a text_pair or none": {one.text_pair is None for one in labelled},
        "the same has_unanswerable": {
            one.has_unanswerable for one in examples.values() if isinstance(one, QuestionsConfig)
        },
    }
    for what, found in alike.items():
        if len(found) > 1:
            yield f"data.datasets: {' and '.join(examples)} must have {what}"


def _classes_fit(model: ModelConfig, data: DataConfig) -> Iterator[str]:
    count = getattr(model, "num_labels", None)
    for name, one in data.datasets.items():
        classes = getattr(one, "class_names", None)
        if count is not None and classes is not None and len(classes) != count:
            yield (
                f"model.num_labels={count}, but data.datasets.{name} has {len(classes)} classes: "
                f"{', '.join(classes)}; set model.num_labels={len(classes)}"
            )


def _labels_fit(model: ModelConfig, data: DataConfig, objective: ObjectiveConfig) -> Iterator[str]:
    """Whether texts are labelled with what the objective learns to say."""
    if isinstance(objective, SequenceClassification):
        wanted = "classes" if objective.is_multi_label else "class"
        meant = f"objective.is_multi_label={str(objective.is_multi_label).lower()}"
    elif isinstance(objective, SequenceRegression):
        wanted, meant = "number", f"objective.type={objective.type}"
        count = getattr(model, "num_labels", None)
        if count is not None and count != 1:
            yield f"{meant} tells one number of a text, but model.num_labels={count}; set it to 1"
    else:
        return
    for name, one in data.datasets.items():
        kind = getattr(one, "label_kind", wanted)
        if kind != wanted:
            yield (
                f"data.datasets.{name}.label_kind={kind}, but {meant} learns label_kind={wanted}; "
                "change one of them"
            )


_BY_WORDS = ("sequence_classification", "sequence_regression")


def _baseline_fits(objective: ObjectiveConfig, evaluation: EvaluationConfig) -> Iterator[str]:
    if evaluation.baseline is not None and objective.type not in _BY_WORDS:
        yield (
            f"evaluation.baseline={evaluation.baseline} tells what whole texts are labelled with, "
            f"which objective.type={objective.type} does not; leave it out, or take "
            f"objective.type={' or '.join(_BY_WORDS)}"
        )


# Each is given the sections that its parameters name, and yields what does not fit.
OBJECTIVE_CHECKS: tuple[Callable[..., Iterator[str]], ...] = (
    _objective_fits,
    _spans_fit,
    _prefixes_fit,
    _batches_are_whole,
    _pixels_fit,
    _pictures_fit,
    _data_fits,
    _examples_are_alike,
    _classes_fit,
    _labels_fit,
    _baseline_fits,
)
