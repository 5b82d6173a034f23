"""Which classes were taken for which: the table of a run's summary, as a picture."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.reporting.run import RunRecords

_CELL, _LABELS, _HEAD = 64, 150, 44  # units of the drawing: a cell's side, and room for names
_NAME_LENGTH = 20  # characters of a class's name that are shown


def section(runs: Sequence[RunRecords]) -> str:
    """The tables of all runs that told classes apart; nothing where none did."""
    found = "".join(
        f"<figure class='chart confusion'><figcaption><h3>{html.escape(run.name)}</h3>"
        "<span class='units'>validation rows, true class in rows, told one in columns</span>"
        f"</figcaption>{picture(run.summary)}</figure>"
        for run in runs
        if _counts(run.summary)
    )
    return (
        f"<section><h2>Confusion</h2><div class='charts wide'>{found}</div></section>"
        if found
        else ""
    )


def picture(summary: Mapping[str, Any]) -> str:
    """The table as SVG; a cell is the darker, the larger its share of its row."""
    counts, names = _counts(summary), summary["class_names"]
    width, height = _LABELS + _CELL * len(counts), _HEAD + _CELL * len(counts)
    columns = "".join(
        f"<text x='{_LABELS + _CELL * (column + 0.5)}' y='{_HEAD - 10}' text-anchor='middle' "
        f"font-size='11'>{_short(name, 9)}<title>{html.escape(name)}</title></text>"
        for column, name in enumerate(names)
    )
    rows = "".join(
        f"<text x='{_LABELS - 10}' y='{_HEAD + _CELL * (row + 0.5) + 4}' text-anchor='end' "
        f"font-size='12'>{_short(name, _NAME_LENGTH)}</text>{_row(row, counts[row], names)}"
        for row, name in enumerate(names)
    )
    return (
        f"<svg role='img' aria-label='{html.escape(_said(counts, names), quote=True)}' "
        f"viewBox='0 0 {width} {height}' width='{width}' style='max-width:100%' "
        f"fill='currentColor'>{columns}{rows}</svg>"
    )


def _row(row: int, counts: Sequence[int], names: Sequence[str]) -> str:
    total = max(sum(counts), 1)
    shades = [f"{0.05 + 0.5 * count / total:.3f}" for count in counts]
    return "".join(
        f"<g><title>{html.escape(f'{names[row]} told as {names[column]}: {count:,}')}, "
        f"{count / total:.1%}</title>"
        f"<rect x='{_LABELS + _CELL * column}' y='{_HEAD + _CELL * row}' width='{_CELL - 2}' "
        f"height='{_CELL - 2}' rx='3' class='cell' fill-opacity='{shades[column]}'/>"
        f"<text x='{_LABELS + _CELL * (column + 0.5) - 1}' y='{_HEAD + _CELL * (row + 0.5) + 4}' "
        f"text-anchor='middle' font-size='12'>{count:,}</text></g>"
        for column, count in enumerate(counts)
    )


def _said(counts: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """The right ones of each class in words, for those who do not see the picture."""
    told = [
        f"{name}: {row[number]:,} of {sum(row):,} right"
        for number, (name, row) in enumerate(zip(names, counts, strict=True))
    ]
    return "Confusion of classes. " + "; ".join(told)


def _counts(summary: Mapping[str, Any]) -> list[list[int]]:
    """The counts, where they are a square with a name for each class; else none."""
    counts, names = summary.get("confusion"), summary.get("class_names")
    if not isinstance(counts, list) or not isinstance(names, list):
        return []
    size = len(names)
    is_square = len(counts) == size and all(
        isinstance(row, list) and len(row) == size and all(isinstance(n, int) for n in row)
        for row in counts
    )
    return counts if is_square and all(isinstance(name, str) for name in names) else []


def _short(name: str, length: int) -> str:
    return html.escape(name if len(name) <= length else f"{name[: length - 1]}\u2026")
