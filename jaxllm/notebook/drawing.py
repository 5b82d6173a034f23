"""Pictures that a notebook shows by itself: SVG, with the same in words."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxllm.reporting.charts import stylesheet

WIDTH = 760
"""Of a picture that fills a notebook's column, in pixels."""

_GAP = 16  # pixels between pictures side by side
# Filled shapes, and text upon them; the colours are those of the curves.
_STYLE = """
.tile { fill: var(--own); stroke: var(--paper); stroke-width: 1.5; }
.on-tile { font: 600 11.5px var(--sans); fill: var(--paper); }
.label { font: 12.5px var(--sans); fill: var(--ink); }
.frame { fill: none; stroke: var(--line); stroke-width: 1; }
.limit { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 3; }
"""


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture of `width` x `height` pixels. body: SVG elements; text: what it shows, in words."""

    body: str
    width: int
    height: int
    text: str

    @property
    def svg(self) -> str:
        """The picture as a document of its own, light or dark as its reader prefers."""
        words = html.escape(self.text)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img"><title>{words}</title>'
            f"<style>{stylesheet()}{_STYLE}</style>"
            f'<rect class="paper" width="{self.width}" height="{self.height}" rx="10"/>'
            f"{self.body}</svg>\n"
        )

    def save(self, path: str | Path) -> Path:
        """Write the picture as an SVG file; returns where it is."""
        Path(path).write_text(self.svg, encoding="utf-8")
        return Path(path)

    def __repr__(self) -> str:
        return self.text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        # As a picture and not as HTML: its style is its own then, and not the whole notebook's.
        return {"image/svg+xml": self.svg, "text/plain": self.text}


def below(drawings: Sequence[Drawing]) -> Drawing:
    """All of them, one below the other."""
    parts, top = [], 0
    for drawing in drawings:
        parts.append(f'<g transform="translate(0 {top})">{drawing.body}</g>')
        top += drawing.height
    width = max(drawing.width for drawing in drawings)
    return Drawing("".join(parts), width, top, "\n".join(drawing.text for drawing in drawings))


def beside(drawings: Sequence[Drawing], *, width: int = WIDTH) -> Drawing:
    """All of them side by side, in as many rows as `width` pixels ask for."""
    parts, left, top, row_height, widest = [], 0, 0, 0, 0
    for drawing in drawings:
        if left and left + drawing.width > width:
            left, top, row_height = 0, top + row_height, 0
        parts.append(f'<g transform="translate({left} {top})">{drawing.body}</g>')
        row_height = max(row_height, drawing.height)
        widest = max(widest, left + drawing.width)
        left += drawing.width + _GAP
    text = "\n".join(drawing.text for drawing in drawings)
    return Drawing("".join(parts), widest, top + row_height, text)


def label(x: float, y: float, text: str, *, kind: str = "label", anchor: str = "start") -> str:
    """A line of text with its foot at y. kind: title, unit, tick, label or on-tile."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )
