"""What the examples of a table are labelled with, in a few numbers.

N examples, C classes.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from jaxllm.data.example_table import Column, Table

_MOST = 100  # classes that are told one by one


def edge_names(edges: tuple[float, ...]) -> tuple[str, ...]:
    """What the classes are called that numbers fall into, between edges in ascending order."""
    shown = [repr(float(edge)).removesuffix(".0") for edge in edges]  # no two are called alike
    between = [f"{low} to {high}" for low, high in pairwise(shown)]
    return (f"below {shown[0]}", *between, f"{shown[-1]} and above")


def label_counts(table: Table, options: Mapping[str, Any]) -> dict[str, float]:
    """Of each column with `label` in its name, how often each class is there, or the numbers.

    options: how the records were read, by which classes have their names; without names, as of
    answers to questions, there are no classes.
    """
    names = tuple(options.get("labels") or options.get("tags") or ())
    if options.get("label_edges"):
        names = edge_names(options["label_edges"])
    found: dict[str, float] = {}
    for name, column in table.columns.items():
        if "label" in name and (names or column.dtype.kind == "f"):
            found |= _counts(column, names)
    return found


def _counts(column: Column, names: tuple[str, ...]) -> dict[str, float]:
    values = np.concatenate([column[number] for number in range(len(column.sizes))])
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        return {"label mean": float(values.mean()), "label least": low, "label most": high}
    if values.dtype == np.uint8:  # flags of the classes
        counts_C = values.reshape(-1, len(names)).sum(axis=0)
    else:
        counts_C = np.bincount(values[values >= 0], minlength=len(names))
    if len(counts_C) > _MOST:
        return {}
    called = [*names, *map(str, range(len(names), len(counts_C)))]
    return {f"label {name}": int(n) for name, n in zip(called, counts_C, strict=True)}
