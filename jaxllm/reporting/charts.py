"""Line charts as SVG: inside the page, or as a picture of their own.

Everything is placed in percent of the plot area, so that one drawing serves every width while
text and strokes keep their size. Curves live in a box of 1000 x 1000 units that is stretched.
"""

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jaxllm.reporting import scale
from jaxllm.reporting.scale import Scale, scale_over
from jaxllm.reporting.series import Series

COLOURS = 8
_LOG_FROM = 50.0  # highest over lowest value, from which a logarithmic axis reads better
_MARKS_UP_TO = 60  # points of all curves together that are marked one by one
_SMOOTH_FROM = 120  # points from which a noisy curve gets a mean drawn over it


@dataclass(frozen=True)
class Line:
    """One curve. `group` is what the page's legend hides together (the run)."""

    label: str
    series: Series
    colour: int
    group: int = 0
    noisy: bool = False


@dataclass(frozen=True)
class Reference:
    """A level to compare with, drawn across the chart."""

    label: str
    value: float


@dataclass(frozen=True)
class Chart:
    """Curves over training steps on common axes. `unit` is said under the title."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    references: tuple[Reference, ...] = ()
    may_be_log: bool = False
    from_zero: bool = False
    last_step: int = 0

    @property
    def x(self) -> Scale:
        """The axis of steps, from 0 to the last one drawn, or to `last_step` if that is later."""
        ends = [int(line.series.steps[-1]) for line in self.lines]
        return Scale(0.0, float(max(self.last_step, *ends, 1)))

    @property
    def y(self) -> Scale:
        """The axis of values: logarithmic where that is allowed and reads better."""
        values = [float(v) for line in self.lines for v in _extremes(line.series)]
        values += [reference.value for reference in self.references]
        log = self.may_be_log and bool(values) and min(values) > 0
        log = log and max(values) > _LOG_FROM * min(values)
        return scale_over(values, log=log, from_zero=self.from_zero and not log)


def plot(chart: Chart) -> str:
    """The elements of the plot area, for an `<svg>` of any size with visible overflow."""
    x, y = chart.x, chart.y
    references = "".join(_reference(reference, y) for reference in chart.references)
    curves = "".join(_curves(line, x, y) for line in chart.lines)
    return (
        f"{_grid(x, y)}"
        '<svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none" '
        f'overflow="visible">{curves}</svg>'
        f"{''.join(_marks(line, x, y) for line in _marked(chart.lines))}{references}"
    )


def describe(chart: Chart) -> str:
    """The chart in a sentence, for those who do not see it."""
    parts = []
    for line in chart.lines:
        finite = line.series.finite
        if len(finite):
            steps = line.series.steps
            parts.append(
                f"{line.label}: from {scale.compact(float(finite[0]))} to "
                f"{scale.compact(float(finite[-1]))} over steps {steps[0]} to {steps[-1]}"
            )
    parts += [f"{r.label}: {scale.compact(r.value, 4)}" for r in chart.references]
    return f"{chart.title}, {chart.unit}. " + "; ".join(parts or ["no values yet"])


def hover_data(chart: Chart) -> str:
    """The points as JSON for the page's script, safe inside a `<script>` element."""
    lines = [
        {
            "label": line.label,
            "colour": line.colour,
            "group": line.group,
            "steps": thin.steps.tolist(),
            "values": [float(f"{v:.6g}") if math.isfinite(v) else None for v in thin.values],
        }
        for line in chart.lines
        for thin in [line.series.thinned()]
    ]
    axes = {
        "x": [chart.x.low, chart.x.high],
        "y": [chart.y.low, chart.y.high],
        "log": chart.y.log,
        "lines": lines,
    }
    return json.dumps(axes, separators=(",", ":")).replace("<", "\\u003c")


def standalone(chart: Chart, *, width: int = 760, height: int = 400) -> str:
    """The chart as an SVG document with title and legend, light or dark as its reader prefers."""
    legend = _standalone_legend(chart.lines, at=62)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(describe(chart))}">'
        f"<title>{html.escape(describe(chart))}</title><style>{stylesheet()}</style>"
        f'<rect class="paper" width="{width}" height="{height}" rx="10"/>'
        f'<text class="title" x="24" y="34">{html.escape(chart.title)}</text>'
        f'<text class="unit" x="{width - 24}" y="34" text-anchor="end">'
        f"{html.escape(unit_text(chart))}</text>{legend}"
        f'<svg x="64" y="84" width="{width - 64 - 28}" height="{height - 84 - 52}" '
        f'overflow="visible">{plot(chart)}</svg></svg>\n'
    )


def stylesheet() -> str:
    """The style of charts, in the page and on their own."""
    return files("jaxllm.reporting").joinpath("chart.css").read_text(encoding="utf-8")


def unit_text(chart: Chart) -> str:
    """The unit, and whether the axis is logarithmic."""
    return " \u00b7 ".join(filter(None, (chart.unit, "log scale" if chart.y.log else "")))


def _extremes(series: Series) -> Sequence[float]:
    finite = series.finite
    return (finite.min(), finite.max()) if len(finite) else ()


def _grid(x: Scale, y: Scale) -> str:
    parts = []
    y_ticks = y.ticks()
    y_texts = scale.log_tick_texts(y_ticks) if y.log else scale.tick_texts(y_ticks)
    for tick, text in zip(y_ticks, y_texts, strict=True):
        at = f"{100 - 100 * y.place(tick):.2f}%"
        parts.append(
            f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
            f'<text class="tick" x="-8" y="{at}" dy="0.32em" text-anchor="end">{text}</text>'
        )
    x_ticks = tuple(tick for tick in x.ticks() if tick == round(tick))
    for tick, text in zip(x_ticks, scale.tick_texts(x_ticks), strict=True):
        at = f"{100 * x.place(tick):.2f}%"
        parts.append(
            f'<text class="tick" x="{at}" y="100%" dy="18" text-anchor="middle">{text}</text>'
        )
    parts.append('<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>')
    parts.append('<text class="tick" x="100%" y="100%" dy="36" text-anchor="end">step</text>')
    return "".join(parts)


def _curves(line: Line, x: Scale, y: Scale) -> str:
    """The curve; for a noisy one of many points faintly, with its running mean over it."""
    kind = f"curve c{line.colour % COLOURS} run-{line.group}"
    window = smoothing_window(line)
    if not window:
        return f'<path class="{kind}" d="{_path(line.series.thinned(), x, y)}"/>'
    mean = line.series.smoothed(window).thinned()
    return (
        f'<path class="{kind} raw" d="{_path(line.series.thinned(), x, y)}"/>'
        f'<path class="{kind}" d="{_path(mean, x, y)}"/>'
    )


def smoothing_window(line: Line) -> int:
    """Over how many points the drawn mean goes; 0 where the curve is drawn as it is."""
    return len(line.series) // 40 | 1 if line.noisy and len(line.series) >= _SMOOTH_FROM else 0


def _path(series: Series, x: Scale, y: Scale) -> str:
    commands = []
    for stretch in series.stretches():
        points = [
            f"{1000 * x.place(step):.1f} {1000 - 1000 * y.place(value):.1f}"
            for step, value in zip(stretch.steps.tolist(), stretch.values.tolist(), strict=True)
        ]
        # A lone point between two gaps becomes a dot: a line of no length with round ends.
        commands.append(f"M{'L'.join(points)}" + ("h0" if len(points) == 1 else ""))
    return "".join(commands)


def _marked(lines: Sequence[Line]) -> list[Line]:
    """The lines of few points, while these are few together; a lone point is marked always."""
    few = [line for line in lines if len(line.series) <= _MARKS_UP_TO]
    crowded = sum(len(line.series) for line in few) > _MARKS_UP_TO
    return [line for line in few if not crowded or len(line.series) == 1]


def _marks(line: Line, x: Scale, y: Scale) -> str:
    points = zip(line.series.steps.tolist(), line.series.values.tolist(), strict=True)
    return "".join(
        f'<circle class="mark c{line.colour % COLOURS} run-{line.group}" r="3" '
        f'cx="{100 * x.place(step):.2f}%" cy="{100 - 100 * y.place(value):.2f}%"/>'
        for step, value in points
        if math.isfinite(value)
    )


def _reference(reference: Reference, y: Scale) -> str:
    at = f"{100 - 100 * y.place(reference.value):.2f}%"
    text = html.escape(f"{reference.label} {scale.compact(reference.value, 4)}")
    return (
        f'<line class="reference" x1="0" x2="100%" y1="{at}" y2="{at}"/>'
        f'<text class="reference-text" x="100%" y="{at}" dy="-6" text-anchor="end">{text}</text>'
    )


def _standalone_legend(lines: Sequence[Line], *, at: int) -> str:
    parts, left = [], 24.0
    for line in lines:
        parts.append(
            f'<line class="curve c{line.colour % COLOURS}" x1="{left}" x2="{left + 18}" '
            f'y1="{at - 4}" y2="{at - 4}"/>'
            f'<text class="tick" x="{left + 25}" y="{at}">{html.escape(line.label)}</text>'
        )
        left += 25 + 7 * len(line.label) + 22
    return "".join(parts)
