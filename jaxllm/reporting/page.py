"""The page: one self-contained HTML file that asks nothing of the network.

All text from a run passes through `_escape`. Should one ever not, the page's own policy still
refuses every script but the one whose hash it names, and every request.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

from jaxllm.reporting import charts, confusion, figures, timeline
from jaxllm.reporting.charts import COLOURS, Chart
from jaxllm.reporting.difference import differing_keys
from jaxllm.reporting.panels import Section, sections
from jaxllm.reporting.run import RunRecords, Sample

_OF_THE_MODEL = ("Loss", "Task")  # the sections that its mistakes stand under
_SAMPLES_SHOWN = 12  # steps with samples of each run: first, last and evenly spaced ones between


def render_report(runs: Sequence[RunRecords]) -> str:
    """The page about one run, or about several next to each other.

    Raises ValueError for no runs, or more than there are colours to tell apart.
    """
    if not 1 <= len(runs) <= COLOURS:
        raise ValueError(f"A report shows 1 to {COLOURS} runs, not {len(runs)}. Name fewer runs.")
    runs = _with_distinct_names(runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    found = sections(runs)
    body = "".join(
        [
            _header(title, runs),
            _legend(runs) if len(runs) > 1 else "",
            _figures(runs),
            _warnings(runs),
            "".join(_section(section) for section in found if section.title in _OF_THE_MODEL),
            confusion.section(runs),
            "".join(_section(section) for section in found if section.title not in _OF_THE_MODEL),
            _footnote(found),
            timeline.section(runs),
            _samples(runs),
            _config(runs),
        ]
    )
    return _document(title, body)


def _document(title: str, body: str) -> str:
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_escape(title)} \u00b7 jaxllm report</title><link rel="icon" href="data:,">'
        f"<style>{charts.stylesheet()}{_asset('page.css')}</style></head>"
        f"<body><main>{body}</main><script>{script}</script></body></html>\n"
    )


def _header(title: str, runs: Sequence[RunRecords]) -> str:
    if len(runs) > 1:
        return f"<header><p class='kicker'>jaxllm report</p><h1>{_escape(title)}</h1></header>"
    (run,) = runs
    verdict = figures.verdict(run)
    return (
        f"<header><p class='kicker'>jaxllm report</p><h1>{_escape(title)}</h1>"
        f"<p class='state'><code>{_escape(str(run.path))}</code> \u00b7 "
        f"{_escape(figures.state(run))}</p>"
        + (f"<p class='verdict'>{_escape(verdict)}</p>" if verdict else "")
        + "</header>"
    )


def _figures(runs: Sequence[RunRecords]) -> str:
    """Tiles for one run; for several a table with a row for each."""
    table = figures.table(runs)
    if len(runs) == 1:
        tiles = "".join(
            f"<div class='tile'><dt>{_escape(figure.label)}</dt><dd>{figure.say(value)}</dd></div>"
            for figure, (value,) in table
            if value is not None
        )
        return f"<dl class='tiles'>{tiles}</dl>" if tiles else ""
    best = {figure.label: figures.best(figure, values) for figure, values in table}
    head = "".join(f"<th scope='col'>{_escape(figure.label)}</th>" for figure, _ in table)
    rows = []
    for index, run in enumerate(runs):
        cells = "".join(
            _cell(figure, values[index], best=best[figure.label] == index)
            for figure, values in table
        )
        rows.append(
            f"<tr><th scope='row'>{_swatch(index)}{_escape(run.name)}</th>{cells}"
            f"<td class='state'>{_escape(figures.state(run))}</td></tr>"
        )
    return (
        "<section><h2>Summary</h2><div class='scroll' tabindex='0' role='region' "
        "aria-label='Summary of the runs'><table class='numbers'>"
        f"<thead><tr><th scope='col'>Run</th>{head}<th scope='col' class='state'>State</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _cell(figure: figures.Figure, value: float | None, *, best: bool) -> str:
    said = "\u2013" if value is None else figure.say(value)
    return f"<td class='{'best' if best else ''}'>{said}</td>"


def _warnings(runs: Sequence[RunRecords]) -> str:
    items = "".join(
        f"<li>{_escape(f'{run.name}: {text}' if len(runs) > 1 else text)}</li>"
        for run in runs
        for text in figures.warnings(run)
    )
    return (
        f"<aside class='warnings' aria-label='Warnings'><ul>{items}</ul></aside>" if items else ""
    )


def _legend(runs: Sequence[RunRecords]) -> str:
    buttons = "".join(
        f"<button type='button' data-run='{index}' aria-pressed='true'>"
        f"{_swatch(index)}{_escape(run.name)}</button>"
        for index, run in enumerate(runs)
    )
    return f"<nav class='legend' aria-label='Show or hide runs'>{buttons}</nav>"


def _section(section: Section) -> str:
    # Rows of two are wider and higher, where that leaves no hole.
    kind = "charts" if len(section.charts) % 3 == 0 else "charts wide"
    keyed = any(_needs_key(chart) for chart in section.charts)
    drawn = "".join(_chart(chart, keyed=keyed) for chart in section.charts)
    return f"<section><h2>{_escape(section.title)}</h2><div class='{kind}'>{drawn}</div></section>"


def _chart(chart: Chart, *, keyed: bool) -> str:
    """One chart; `keyed` keeps the row of the key also where it is empty, so that plots align."""
    caption = (
        f"<figcaption><h3>{_escape(chart.title)}</h3>"
        f"<span class='units'>{_escape(charts.unit_text(chart))}</span></figcaption>"
    )
    if not chart.lines:
        return f"<figure class='chart'>{caption}<p class='empty'>Nothing recorded yet.</p></figure>"
    label = _escape(charts.describe(chart))
    return (
        f"<figure class='chart'>{caption}{_key(chart) if keyed else ''}"
        "<div class='plot' tabindex='0' role='group' "
        f"aria-label='{_escape(chart.title)}: left and right arrow keys read single values'>"
        f"<svg role='img' aria-label='{label}' width='100%' height='100%' overflow='visible'>"
        f"{charts.plot(chart)}</svg><div class='cursor' hidden></div>"
        "<div class='tip' aria-live='polite' hidden></div></div>"
        f"<script type='application/json'>{charts.hover_data(chart)}</script></figure>"
    )


def _needs_key(chart: Chart) -> bool:
    """Whether the chart has several curves of one run, which the page's legend does not name."""
    return len(chart.lines) > 1 and len({line.group for line in chart.lines}) == 1


def _key(chart: Chart) -> str:
    items = "".join(
        f"<li>{_swatch(line.colour)}{_escape(line.label)}</li>"
        for line in chart.lines
        if _needs_key(chart)
    )
    return f"<ul class='key'>{items}</ul>"


def _footnote(found: Sequence[Section]) -> str:
    lines = [line for section in found for chart in section.charts for line in chart.lines]
    if not any(charts.smoothing_window(line) for line in lines):
        return ""
    return (
        "<p class='soft footnote'>Noisy curves: every record faintly, and boldly the centred mean "
        "over a fortieth of the records, speeds weighed by the time they lasted.</p>"
    )


def _samples(runs: Sequence[RunRecords]) -> str:
    columns = "".join(
        f"<div class='samples'>{_run_heading(index, run, runs)}{_sample_list(run.samples)}</div>"
        for index, run in enumerate(runs)
        if run.samples
    )
    if not columns:
        return ""
    return f"<section><h2>Samples</h2><div class='columns'>{columns}</div></section>"


def _sample_list(samples: Sequence[Sample]) -> str:
    """The samples of the last step, and those of earlier steps folded below, latest first."""
    steps = sorted({sample.step for sample in samples})
    last = len(steps) - 1
    count = min(len(steps), _SAMPLES_SHOWN)
    shown = sorted({round(i * last / max(count - 1, 1)) for i in range(count)}, reverse=True)
    newest, *earlier = (_samples_at(steps[index], samples) for index in shown)
    if not earlier:
        return f"<div class='card'>{newest}</div>"
    of_all = "" if len(shown) == len(steps) else f" of {last:,}"
    return (
        f"<div class='card'>{newest}</div><details><summary>Earlier samples "
        f"({len(earlier)}{of_all})</summary>{''.join(earlier)}</details>"
    )


def _samples_at(step: int, samples: Sequence[Sample]) -> str:
    texts = "".join(
        f"<blockquote><b>{_escape(sample.prompt)}</b>"
        f"{_escape(sample.text.removeprefix(sample.prompt))}</blockquote>"
        for sample in samples
        if sample.step == step
    )
    return f"<p class='soft step'>step {step:,}</p>{texts}"


def _config(runs: Sequence[RunRecords]) -> str:
    """How the configs differ, and each one whole, folded."""
    whole = "".join(
        f"<details>{_summary_of(index, run, runs)}<pre>{_escape(run.config_text)}</pre></details>"
        for index, run in enumerate(runs)
    )
    return f"<section><h2>Config</h2>{_difference(runs) if len(runs) > 1 else ''}{whole}</section>"


def _difference(runs: Sequence[RunRecords]) -> str:
    rows = differing_keys([run.config for run in runs])
    if not rows:
        return "<p class='soft'>The configs are equal.</p>"
    head = "".join(
        f"<th scope='col'>{_swatch(index)}{_escape(run.name)}</th>"
        for index, run in enumerate(runs)
    )
    body = "".join(
        f"<tr><th scope='row'><code>{_escape(key)}</code></th>"
        + "".join(
            "<td class='soft'>absent</td>" if v is None else f"<td><code>{_escape(v)}</code></td>"
            for v in values
        )
        + "</tr>"
        for key, values in rows
    )
    return (
        "<p class='soft'>Keys that differ.</p><div class='scroll' tabindex='0' role='region' "
        "aria-label='Config keys that differ'><table class='difference'>"
        f"<thead><tr><th scope='col'>Key</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _summary_of(index: int, run: RunRecords, runs: Sequence[RunRecords]) -> str:
    name = f"{_swatch(index)}{_escape(run.name)}: " if len(runs) > 1 else ""
    return f"<summary>{name}the whole config.yaml</summary>"


def _run_heading(index: int, run: RunRecords, runs: Sequence[RunRecords]) -> str:
    return f"<h3>{_swatch(index)}{_escape(run.name)}</h3>" if len(runs) > 1 else ""


def _swatch(colour: int) -> str:
    return f"<i class='swatch c{colour % COLOURS}' aria-hidden='true'></i>"


def _with_distinct_names(runs: Sequence[RunRecords]) -> list[RunRecords]:
    """Names runs by as much of the end of their paths as tells them all apart."""
    parts = [run.path.resolve().parts for run in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return [
        replace(run, name="/".join(part[-depth:]) if depth > 1 else run.name)
        for run, part in zip(runs, parts, strict=True)
    ]


def _asset(name: str) -> str:
    return files("jaxllm.reporting").joinpath(name).read_text(encoding="utf-8")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
