"""The report on runs, as a page."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxllm.commands.run_place import open_to_read
from jaxllm.reporting.page import render_report
from jaxllm.reporting.run import RunRecords, read_run
from jaxllm.storage import as_path


def report(runs: Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Writes one HTML page about `runs` (run folders, or gs://) and returns where it is.

    Without `out`, the page of one run is its report.html, and that of several the comparison.html
    of the first. Raises ValueError for a folder that is not a run.
    """
    page = render_report([_read(run) for run in runs])
    if out is None:
        out = as_path(runs[0]) / ("report.html" if len(runs) == 1 else "comparison.html")
    out = as_path(out)
    if not isinstance(out, Path):  # an object is there as a whole or not at all
        out.write_text(page)
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, out)
    return out


def _read(run: str | Path) -> RunRecords:
    """What a run says, with the path that the user knows."""
    with open_to_read(run) as folder:
        return replace(read_run(folder), path=as_path(run))
