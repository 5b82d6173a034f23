"""The page: one self-contained HTML file that asks nothing of the network.

All text from a run passes through `_escape`. Should one ever not, the page's own policy still
refuses every script but the one whose hash it names, and every request.
"""

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib.resources import files

from jaxllm.report import figures
from jaxllm.report.charts import COLOURS, Chart, describe, hover_data, plot, smoothing_window
from jaxllm.report.charts import stylesheet as chart_stylesheet
from jaxllm.report.charts import unit_text
from jaxllm.report.difference import differing_keys
from jaxllm.report.panels import Section, sections
from jaxllm.report.run import RunRecords, Sample

_SAMPLES_SHOWN = 12  # of each run; the first, the last and evenly spaced ones between


def render_report(runs: Sequence[RunRecords]) -> str:
    """The page about one run, or about several next to each other.

    Raises ValueError for no runs, or more than there are colours to tell apart.
    """
    if not 1 <= len(runs) <= COLOURS:
        raise ValueError(f"A report shows 1 to {COLOURS} runs, not {len(runs)}. Name fewer runs.")
    runs = _with_distinct_names(runs)
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    body = "".join(
        [
            _header(title, runs),
            _figures(runs),
            _warnings(runs),
            "".join(_section(section) for section in sections(runs)),
            _samples(runs),
            _config(runs),
        ]
    )
    return _document(title, body, legend=_legend(runs) if len(runs) > 1 else "")


def _document(title: str, body: str, *, legend: str) -> str:
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
        f"<style>{chart_stylesheet()}{_asset('page.css')}</style></head>"
        f"<body><main>{legend}{body}</main><script>{script}</script></body></html>\n"
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
            f"<td{' class=best' if best[figure.label] == index else ''}>"
            f"{'\u2013' if values[index] is None else figure.say(values[index] or 0.0)}</td>"
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
    kind = "charts wide" if section.wide else "charts"
    charts = "".join(_chart(chart) for chart in section.charts)
    return f"<section><h2>{_escape(section.title)}</h2><div class='{kind}'>{charts}</div></section>"


def _chart(chart: Chart) -> str:
    caption = (
        f"<figcaption><h3>{_escape(chart.title)}</h3>"
        f"<span class='units'>{_escape(unit_text(chart))}</span></figcaption>"
    )
    if not chart.lines:
        return f"<figure class='chart'>{caption}<p class='empty'>Nothing recorded yet.</p></figure>"
    label = _escape(describe(chart))
    return (
        f"<figure class='chart'>{caption}{_chart_key(chart)}"
        f"<div class='plot' tabindex='0' role='group' aria-label='{label} "
        "Left and right arrow keys read single values.'>"
        f"<svg role='img' aria-label='{label}' width='100%' height='100%' overflow='visible'>"
        f"{plot(chart)}</svg><div class='cursor' hidden></div>"
        "<div class='tip' aria-live='polite' hidden></div></div>"
        f"<script type='application/json'>{hover_data(chart)}</script></figure>"
    )


def _chart_key(chart: Chart) -> str:
    """What the curves are, where the page's legend does not say it."""
    own = len({line.group for line in chart.lines}) == 1 and len(chart.lines) > 1
    items = [f"<li>{_swatch(line.colour)}{_escape(line.label)}</li>" for line in chart.lines if own]
    window = max(smoothing_window(line) for line in chart.lines)
    if window:
        items.append(f"<li class='soft'>bold: mean over {window} records</li>")
    return f"<ul class='key'>{''.join(items)}</ul>"


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
    """The last sample open, earlier ones folded above it."""
    last = len(samples) - 1
    count = min(len(samples), _SAMPLES_SHOWN)
    shown = sorted({round(i * last / max(count - 1, 1)) for i in range(count)})
    left_out = len(samples) - len(shown)
    note = f"<p class='soft'>{left_out} more in metrics.jsonl.</p>" if left_out else ""
    items = []
    for index in reversed(shown):
        sample = samples[index]
        text = sample.text.removeprefix(sample.prompt)
        items.append(
            f"<details{' open' if index == last else ''}><summary>Step {sample.step:,}</summary>"
            f"<blockquote><b>{_escape(sample.prompt)}</b>{_escape(text)}</blockquote></details>"
        )
    return "".join(items) + note


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
    from dataclasses import replace

    parts = [run.path.resolve().parts for run in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return [
        replace(run, name="/".join(part[-depth:]) if depth > 1 else run.name)
        for run, part in zip(runs, parts, strict=True)
    ]


def _asset(name: str) -> str:
    return files("jaxllm.report").joinpath(name).read_text(encoding="utf-8")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
