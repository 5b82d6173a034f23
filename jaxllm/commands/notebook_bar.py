"""Progress in a notebook: a bar and the curve of the loss, each in one place of a cell's output.

Plain HTML and SVG through IPython's displays, which every notebook has; no widgets.
"""

import html
import time
from typing import Any

import numpy as np

from jaxllm.reporting.charts import Chart, Line, describe, standalone
from jaxllm.reporting.series import Series

_BAR_SECONDS = 0.25  # between two looks of the bar
_CURVE_SECONDS = 2.0  # likewise of the curve: a picture of a few dozen kB is sent
_CURVE_FROM = 10  # points
_MOST_POINTS = 10_000  # from which on every other is forgotten


class NotebookBar:
    """One bar after the other, in the cell that they begin in."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last_bar: Any = None
        self._curve: Any = None
        self._drawn = self._curve_drawn = 0.0
        self._latest: dict[str, str] = {}
        self._losses: list[tuple[int, float]] = []
        self._total = 0
        self._begun = (0.0, 0)

    def advance(self, done: int, total: int, words: str, *, is_lasting: bool) -> None:
        """The bar at `done` of `total`, with `words` beside it.

        is_lasting: whether it stays when another one begins.
        """
        now = time.monotonic()
        is_new = self._bar is None
        if is_new:
            self._begun = (now, done)
            self._bar = None if is_lasting else self._last_bar
        self._total = total
        words += self._time_left(now, done)
        self._latest = _bar(done, total, words)
        if self._bar is None:
            self._bar = _display(self._latest)
            self._last_bar = None if is_lasting else self._bar
        elif not is_new and now - self._drawn < _BAR_SECONDS and done < total:
            return
        self._bar.update(self._latest, raw=True)
        self._drawn = now
        if len(self._losses) >= _CURVE_FROM and now - self._curve_drawn >= _CURVE_SECONDS:
            self._draw_curve()

    def add_loss(self, step: int, loss: float) -> None:
        """The next point of the curve."""
        self._losses.append((step, loss))
        if len(self._losses) > _MOST_POINTS:
            self._losses = self._losses[::2]

    def close(self) -> None:
        """Leave bar and curve as they are at last."""
        if self._bar is not None:
            self._bar.update(self._latest, raw=True)
            if len(self._losses) >= _CURVE_FROM:
                self._draw_curve()
        self._bar = self._curve = None
        self._losses = []

    def _time_left(self, now: float, done: int) -> str:
        since, first = self._begun
        if done == first or done >= self._total:
            return ""
        left = (now - since) / (done - first) * (self._total - done)
        return f"  {int(left) // 60}:{int(left) % 60:02d} left"

    def _draw_curve(self) -> None:
        steps, losses = zip(*self._losses, strict=True)
        series = Series(np.array(steps, np.int64), np.array(losses, np.float64))
        lines = (Line("training", series, colour=0, noisy=True),)
        chart = Chart("Loss", "mean of what counts", lines, may_be_log=True, last_step=self._total)
        bundle = {
            "image/svg+xml": standalone(chart, height=280),
            "text/plain": describe(chart),
        }
        if self._curve is None:
            self._curve = _display(bundle)
        else:
            self._curve.update(bundle, raw=True)
        self._curve_drawn = time.monotonic()


def _bar(done: int, total: int, words: str) -> dict[str, str]:
    shown = html.escape(words)
    return {
        "text/html": (
            '<div style="font-family:monospace;white-space:pre-wrap">'
            f'<progress value="{done}" max="{total}" style="width:24em"></progress>  {shown}</div>'
        ),
        "text/plain": words,
    }


def _display(bundle: dict[str, str]) -> Any:
    from IPython.display import display

    return display(bundle, raw=True, display_id=True)
