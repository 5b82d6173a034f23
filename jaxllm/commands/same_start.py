"""Whether all processes of a run were started alike: a pod whose hosts differ trains nonsense."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from jaxllm.commands.resumption import leaves
from jaxllm.config import RunConfig
from jaxllm.parallel import distributed

_PACKAGES = ("jaxllm", "jax", "jaxlib", "flax", "optax")
_SHOWN = 12  # lines of an error


def check_same_start(config: RunConfig, requested: Sequence[str] = ()) -> None:
    """ValueError, on every process, with the differences, unless config and versions are the same.

    All processes call it together. requested: as for `train`.
    """
    own = {
        **dict(leaves(config.model_dump(mode="json"))),
        "--change": list(requested),
        **{f"version of {package}": version(package) for package in _PACKAGES},
    }
    first, *others = map(json.loads, distributed.from_all(json.dumps(own)))
    lines = [
        line for rank, other in enumerate(others, start=1) for line in _lines(rank, first, other)
    ]
    if lines:
        more = [f"  ... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        raise ValueError(
            "the processes of this run were not started alike:\n"
            + "\n".join([*lines[:_SHOWN], *more])
            + "\ngive the same config, options and versions on every host"
        )


def _lines(rank: int, first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [
        f"  {key}: {other.get(key)!r} in process {rank}, {first.get(key)!r} in process 0"
        for key in {**first, **other}
        if first.get(key) != other.get(key)
    ]
