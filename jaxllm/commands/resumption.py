"""Which config may go on with a run: what would make it another run is told apart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.config import RunConfig
from jaxllm.data.examples import ExamplesConfig

_OF_NETWORKS = ("attention", "remat", "offload", "is_scanned")
_TOWERS = ("model", "model.text", "model.vision")

# What may differ when a run goes on: where and when, never what is computed.
MAY_CHANGE = (
    "run_dir",
    "parallel",
    "checkpoints",
    "evaluation",
    "samples",
    "metrics",
    "profile",
    "compilation_cache",
    "plan_cache",
    "xla_flags",
    "training.num_microbatches",
    "training.watchdog",
    "training.anomalies.max_rollbacks",
    "training.replica_check_every",
    "training.repeat_check_every",
    *(f"{tower}.{name}" for tower in _TOWERS for name in _OF_NETWORKS),
    "objective.num_chunks",
    "data.root",
    "data.workers",
    "data.prefetch",
)

# Where the weights lie that a run is trained beside; their fingerprint says whether they are those.
_BASE = ("init_from.path", "init_from.step")

# What may differ when it is asked for by name: the run goes on, and is another from there. The
# text, its order and the shapes of the weights are not among them: no checkpoint would fit.
MAY_CHANGE_ON_REQUEST = (
    *(f"{tower}.dropout" for tower in _TOWERS),
    "objective",
    "optim.clip_norm",
    "optim.learning_rate",
    "optim.schedule",
    "optim.weight_decay",
    "training.anomalies",
    "training.steps",
)


def check_resumable(
    saved: RunConfig,
    given: RunConfig,
    *,
    run_dir: str | Path,
    has_only_weights: bool = False,
    requested: Sequence[str] = (),
) -> None:
    """ValueError with every difference that would make the finished run another run.

    has_only_weights: nothing but an imported model is there, which only `model` describes.
    requested: keys that are to change all the same, or sections of them.
    """
    _check_requested(requested)
    is_open_ended = not given.optim.depends_on_total_steps
    allowed = (*MAY_CHANGE, *requested, *(["training.steps"] if is_open_ended else []))
    if given.adapter is not None or given.training.frozen:
        allowed = (*allowed, *_BASE)
    if has_only_weights:
        allowed = (*allowed, *(RunConfig.model_fields.keys() - {"model"}))
    conflicts = {
        key: f"  {key}: {old!r} in the run folder, {new!r} given"
        for key, old, new in differences(saved, given)
        if not _is_within(key, allowed) and not (new is None and key in _found_out(saved, given))
    }
    if conflicts:
        hint = (
            "\n(training.steps may change only under a schedule that does not depend on it)"
            if "training.steps" in conflicts
            else ""
        )
        raise ValueError(
            f"{run_dir} holds a run with another config:\n"
            + "\n".join(conflicts.values())
            + hint
            + "\ngive the run's own values to go on with it, or another run_dir to start anew"
            + _how_to_request(conflicts)
        )


def _found_out(saved: RunConfig, given: RunConfig) -> set[str]:
    """Keys that were left to the data, and that the run folder knows since it was read."""
    return {
        f"data.datasets.{name}.{key}"
        for name, dataset in given.data.datasets.items()
        if isinstance(dataset, ExamplesConfig) and name in saved.data.datasets
        for key in dataset.unknown
    }


def _check_requested(requested: Sequence[str]) -> None:
    """ValueError for a key that may not change even on request."""
    for key in requested:
        if not _is_within(key, (*MAY_CHANGE, *MAY_CHANGE_ON_REQUEST)):
            raise ValueError(
                f"--change {key}: this may not change within a run; these may: "
                + ", ".join(MAY_CHANGE_ON_REQUEST)
            )


def _how_to_request(keys: Iterable[str]) -> str:
    """The options that would let the run go on from here as another; empty if none would."""
    keys = list(keys)
    if not all(_is_within(key, MAY_CHANGE_ON_REQUEST) for key in keys):
        return ""
    return "\nor, to go on from here as another run: " + " ".join(f"--change {k}" for k in keys)


def _is_within(key: str, sections: Iterable[str]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


def differences(first: RunConfig, second: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in first, value in second) where they differ; None where missing."""
    one = dict(leaves(first.model_dump(mode="json")))
    two = dict(leaves(second.model_dump(mode="json")))
    for key in {**one, **two}:
        if one.get(key) != two.get(key):
            yield key, one.get(key), two.get(key)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested mappings; an empty one is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
