"""Which dataset of a run says how the records of another file are read."""

from collections.abc import Mapping
from typing import Any

from jaxllm.config import RunConfig
from jaxllm.data.captions import CaptionsConfig
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.text_pairs import TextPairsConfig

# What is not looked at where there is nothing to learn: where records come from, which are held
# out, and what they are labelled with. Cross-checks of the config see to equal classes.
_NOT_READ = {
    "source", "validation_source", "validation_every", "group", "weight",
    "label", "label_kind", "label_separator", "labels", "label_edges",
    "tag", "answers", "target",
}  # fmt: skip
# The same of a single type, which others look at.
_NOT_READ_OF: dict[type, set[str]] = {
    TextPairsConfig: {"text_pair", "passage_tokens"},
    CaptionsConfig: {"text"},
}


def dataset_to_read_as(config: RunConfig, name: str | None) -> tuple[str, RunConfig] | None:
    """The name of the dataset whose options records are read with, and the run with it alone.

    name: of the one that is asked for. None in a run without examples. ValueError for a name that
    no dataset has, and without one where the datasets are read in different ways.
    """
    datasets = {
        key: one for key, one in config.data.datasets.items() if isinstance(one, ExamplesConfig)
    }
    if name is not None and name not in datasets:
        raise ValueError(f"--dataset {name}: the run has {_listed(datasets) or 'none of examples'}")
    if not datasets:
        return None
    chosen = name or next(iter(datasets))
    if name is None:
        _check_alike(datasets)
    data = config.data.model_copy(update={"datasets": {chosen: datasets[chosen]}})
    return chosen, config.model_copy(update={"data": data})


def _check_alike(datasets: Mapping[str, ExamplesConfig]) -> None:
    read = {name: _read(one) for name, one in datasets.items()}
    keys = sorted({key for options in read.values() for key in options})
    for key in keys:
        values = {name: options.get(key) for name, options in read.items()}
        first, *others = values.values()
        if any(other != first for other in others):
            said = ", ".join(f"{name} has {value!r}" for name, value in values.items())
            raise ValueError(
                f"the run's datasets differ in {key} ({said}); say with --dataset which of "
                f"{_listed(datasets)} the records are read as"
            )


def _read(dataset: ExamplesConfig) -> dict[str, Any]:
    """The options that decide what a model reads of a record without labels."""
    outside = _NOT_READ | _NOT_READ_OF.get(type(dataset), set())
    return dataset.model_dump(mode="json", exclude=outside)


def _listed(datasets: Mapping[str, ExamplesConfig]) -> str:
    return ", ".join(datasets)
