"""Which config may go on with a run: what would make it another run is told apart."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxllm.config import RunConfig

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
    "model.attention",
    "objective.num_chunks",
    "model.remat",
    "model.offload",
    "model.is_scanned",
    "data.root",
    "data.workers",
    "data.prefetch",
)


def check_resumable(
    saved: RunConfig, given: RunConfig, *, run_dir: Path, has_only_weights: bool = False
) -> None:
    """ValueError with every difference that would make the finished run another run.

    has_only_weights: nothing but an imported model is there, which only `model` describes.
    """
    is_open_ended = not given.optim.depends_on_total_steps
    allowed = (*MAY_CHANGE, *(["training.steps"] if is_open_ended else []))
    if has_only_weights:
        allowed = (*allowed, *(RunConfig.model_fields.keys() - {"model"}))
    conflicts = [
        f"  {key}: {old!r} in the run folder, {new!r} given"
        for key, old, new in differences(saved, given)
        if not any(key == prefix or key.startswith(prefix + ".") for prefix in allowed)
    ]
    if conflicts:
        hint = (
            "\n(training.steps may change only under a schedule that does not depend on it)"
            if any(line.startswith("  training.steps:") for line in conflicts)
            else ""
        )
        raise ValueError(
            f"{run_dir} holds a run with another config:\n"
            + "\n".join(conflicts)
            + hint
            + "\ngive the run's own values to go on with it, or another run_dir to start anew"
        )


def differences(first: RunConfig, second: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, value in first, value in second) where they differ; None where missing."""
    one = dict(_leaves(first.model_dump(mode="json")))
    two = dict(_leaves(second.model_dump(mode="json")))
    for key in {**one, **two}:
        if one.get(key) != two.get(key):
            yield key, one.get(key), two.get(key)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
