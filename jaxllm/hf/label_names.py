"""What a config.json says of the classes that a head tells: their names, and how they are told."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What transformers computes as the loss of a head of whole texts or images."""


def label_keys(
    names: Sequence[str] | None, *, num_labels: int | None, problem_type: ProblemType | None
) -> dict[str, Any]:
    """The keys of a config.json; without names the classes are called as nobody named them."""
    found: dict[str, Any] = {}
    if names is not None and len(names) == num_labels:
        found["id2label"] = {str(number): name for number, name in enumerate(names)}
        found["label2id"] = {name: number for number, name in enumerate(names)}
    if num_labels is not None and problem_type is not None:
        found["problem_type"] = problem_type
    return found


def read_names(raw: Mapping[str, Any], *, num_labels: int | None) -> tuple[str, ...] | None:
    """The names in a config.json, in order; None where it has none but those nobody gave."""
    found = raw.get("id2label")
    if not isinstance(found, dict) or num_labels is None:
        return None
    given = (found.get(str(number)) for number in range(num_labels))
    names = tuple(name for name in given if isinstance(name, str))
    if not len(names) == len(found) == num_labels:
        return None
    unnamed = tuple(f"LABEL_{number}" for number in range(num_labels))
    return None if names == unnamed else names
