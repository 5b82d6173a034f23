"""Amounts as bars, each of parts: memory by what is in it, time by what takes it."""

import html
from collections.abc import Mapping

from jaxllm.notebook.drawing import WIDTH, Drawing, label
from jaxllm.reporting.charts import COLOURS
from jaxllm.reporting.scale import Scale, compact, scale_over, tick_texts

_ROW, _BAR = 34, 20  # pixels from bar to bar, and of a bar
_TOP, _FOOT = 84, 34
_CHARACTER = 6.6  # pixels of one in a label, about
_LONGEST_LABEL = 44  # characters

Rows = Mapping[str, Mapping[str, float]]


def draw_bars(
    rows: Rows,
    *,
    title: str,
    unit: str,
    limit: tuple[str, float] | None = None,
    width: int = WIDTH,
) -> Drawing:
    """A bar for each row, made of its parts, none of them negative.

    The same part has one colour in all. limit: a name and a level that is drawn across.
    """
    totals = {name: sum(parts.values()) for name, parts in rows.items()}
    levels = [*totals.values(), *([limit[1]] if limit else [])]
    scale = scale_over(levels, from_zero=True)
    left = 24 + min(max(map(len, rows), default=0), _LONGEST_LABEL) * _CHARACTER + 10
    right = width - 74  # where the total of the longest bar still has room
    amounts = [pair for parts in rows.values() for pair in parts.items()]
    kinds = list(dict.fromkeys(part for part, amount in amounts if amount))
    bottom = _TOP + _ROW * len(rows)
    body = [
        label(24, 34, title, kind="title"),
        label(width - 24, 34, unit, kind="unit", anchor="end"),
        _legend(kinds),
        _grid(scale, left, right, bottom),
    ]
    for index, (name, parts) in enumerate(rows.items()):
        top = _TOP + _ROW * index + (_ROW - _BAR) / 2
        body.append(_row(name, parts, kinds, scale=scale, left=left, right=right, top=top))
    if limit:
        at = _place(limit[1], scale, left, right)
        body.append(
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 4}" y2="{bottom}"/>'
            + label(at, _TOP - 9, f"{limit[0]} {compact(limit[1])}", kind="tick", anchor="middle")
        )
    return Drawing("".join(body), width, bottom + _FOOT, _words(rows, totals, title, unit, limit))


def _row(
    name: str,
    parts: Mapping[str, float],
    kinds: list[str],
    *,
    scale: Scale,
    left: float,
    right: float,
    top: float,
) -> str:
    shown = name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "\u2026"
    foot = top + _BAR - 6
    pieces, start = [label(left - 10, foot, shown, anchor="end")], 0.0
    for kind in kinds:
        amount = parts.get(kind, 0.0)
        x = _place(start, scale, left, right)
        length = _place(start + amount, scale, left, right) - x
        if amount:
            words = html.escape(f"{kind} {compact(amount)}")
            pieces.append(
                f'<rect class="tile c{kinds.index(kind) % COLOURS}" x="{x:.1f}" y="{top:.1f}" '
                f'width="{length:.1f}" height="{_BAR}"><title>{words}</title></rect>'
            )
        start += amount
    end = _place(start, scale, left, right)
    pieces.append(label(end + 6, foot, compact(start), kind="tick"))
    return "".join(pieces)


def _place(value: float, scale: Scale, left: float, right: float) -> float:
    return left + scale.place(value) * (right - left)


def _legend(kinds: list[str]) -> str:
    if len(kinds) < 2:
        return ""
    parts, left = [], 24.0
    for index, kind in enumerate(kinds):
        parts.append(
            f'<rect class="tile c{index % COLOURS}" x="{left:.1f}" y="48" width="12" height="12" '
            f'rx="2"/>{label(left + 18, 58, kind, kind="tick")}'
        )
        left += 18 + _CHARACTER * len(kind) + 18
    return "".join(parts)


def _grid(scale: Scale, left: float, right: float, bottom: float) -> str:
    ticks = scale.ticks()
    return "".join(
        f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>'
        + label(at, bottom + 18, text, kind="tick", anchor="middle")
        for tick, text in zip(ticks, tick_texts(ticks), strict=True)
        for at in [_place(tick, scale, left, right)]
    )


def _words(
    rows: Rows,
    totals: Mapping[str, float],
    title: str,
    unit: str,
    limit: tuple[str, float] | None,
) -> str:
    lines = [f"{title}, {unit}" + (f" ({limit[0]} {compact(limit[1])})" if limit else "")]
    for name, parts in rows.items():
        inside = ", ".join(f"{part} {compact(amount)}" for part, amount in parts.items() if amount)
        detail = f" ({inside})" if len(parts) > 1 else ""
        lines.append(f"{name}: {compact(totals[name])}{detail}")
    return "\n".join(lines)
