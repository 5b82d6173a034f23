"""Where the configs of several runs differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str | None]]]:
    """The dotted keys that do not have one value in all `configs`, in the order of the configs.

    Each comes with its value in every config as text, None where it is absent. An item of a list
    is a key too: `data.sources.0.path`.
    """
    flat = [dict(_leaves(config)) for config in configs]
    keys = list(dict.fromkeys(key for leaves in flat for key in leaves))
    rows = [(key, [leaves.get(key) for leaves in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not prefix):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{prefix}.{index}")
    else:
        # As YAML would have it: text bare, the rest as JSON, which shares YAML's spelling.
        yield prefix, value if isinstance(value, str) else json.dumps(value, default=str)
