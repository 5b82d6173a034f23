"""The classes of a head that training starts from, beside those that the run tells."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from jaxllm.checkpoints.start import RunStart
from jaxllm.commands.batches import examples_of
from jaxllm.config import RunConfig
from jaxllm.data import DataConfig
from jaxllm.hf.label_names import read_names
from jaxllm.hf.start import HfStart
from jaxllm.models import ModelConfig
from jaxllm.models.other_head import has_same_head

_SHOWN = 10  # names of classes in a message


def check_classes(start: HfStart | RunStart, config: RunConfig) -> None:
    """ValueError for a head whose classes are called otherwise than the run's.

    Unless init_from.head says what becomes of it; ValueError too where there is no such head.
    """
    theirs: Any = TypeAdapter(ModelConfig).validate_python(start.model())
    is_same = has_same_head(config.model, theirs)
    if start.head is not None:
        if getattr(config.model, "num_labels", None) is None:
            raise ValueError(
                f"init_from.head={start.head} is given, but model has no head of classes; leave "
                "it out"
            )
        if start.head == "kept" and not is_same:
            raise ValueError(
                f"init_from.head=kept, but {start.path} has {_shape(theirs)}, and the run "
                f"{_shape(config.model)}; leave it out for a new head, or change model"
            )
        return
    there, ours = _class_names(start), _names_of_run(config)
    if is_same and there is not None and ours is not None and there != ours:
        raise ValueError(
            f"init_from.path: the head of {start.path} tells {_shown(there)}, but data.datasets "
            f"have {_shown(ours)}; set init_from.head=new for a new head, init_from.head=kept if "
            "they are the same classes in the same order, or give data.datasets the labels there"
        )


def check_imported_classes(raw: Mapping[str, Any], config: RunConfig) -> None:
    """ValueError where a run is to go on with a published model, and names its classes otherwise.

    raw: the config.json of that model.
    """
    there = read_names(raw, num_labels=getattr(config.model, "num_labels", None))
    ours = _names_of_run(config)
    if there is not None and ours is not None and there != ours:
        raise ValueError(
            f"the imported model tells {_shown(there)}, but data.datasets have {_shown(ours)}; "
            "give data.datasets the labels there, or start a run of its own from the published "
            "folder, where init_from.head says what becomes of them"
        )


def _names_of_run(config: RunConfig) -> tuple[str, ...] | None:
    return getattr(examples_of(config), "class_names", None)


def _class_names(start: HfStart | RunStart) -> tuple[str, ...] | None:
    """What the classes of its head are called, in order; None where nobody named them."""
    if isinstance(start, HfStart):
        return start.class_names()
    for dataset in DataConfig.model_validate(start.data()).datasets.values():
        names = getattr(dataset, "class_names", None)
        if names is not None:
            return names
    return None


def _shape(model: Any) -> str:
    return f"model.head={model.head}, model.num_labels={model.num_labels}"


def _shown(names: Sequence[str]) -> str:
    more = "" if len(names) <= _SHOWN else f", ... ({len(names)} in all)"
    return f"[{', '.join(names[:_SHOWN])}{more}]"
