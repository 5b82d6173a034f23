"""Overrides of a config from Python values."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

Override = str | Mapping[str, Any]
"""`key.path=value` as on the command line, or a dict of dotted keys and their values."""


def override_texts(given: Sequence[Override]) -> list[str]:
    """All of them as `key.path=value`, in order.

    A value that is a dict or a list takes the place of all that the key has, as on the command
    line. ValueError for what is neither kind of override, or for a value that YAML has no form for.
    """
    texts: list[str] = []
    for override in given:
        if isinstance(override, str):
            texts.append(override)
        elif isinstance(override, Mapping):
            texts += [_text(key, value) for key, value in override.items()]
        else:
            raise ValueError(
                f"override {override!r}: give a dict, as {{'training.steps': 100}}, or a string, "
                "as 'training.steps=100'"
            )
    return texts


def _text(key: Any, value: Any) -> str:
    if not isinstance(key, str) or "=" in key:
        raise ValueError(f"override {key!r}: a key is dotted text, as 'training.steps'")
    try:
        plain = yaml.safe_dump(
            _plain(value), default_flow_style=True, allow_unicode=True, width=float("inf")
        )
    except yaml.YAMLError:
        raise ValueError(
            f"override {key!r}: a value is made of numbers, texts, None, lists and dicts; this is "
            f"{value!r}"
        ) from None
    return f"{key}={plain.removesuffix('...\n').strip()}"


def _plain(value: Any) -> Any:
    """The same in types that YAML knows."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, PurePath) else value
