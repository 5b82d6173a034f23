"""The report on runs, as a page."""

import os
from collections.abc import Sequence
from pathlib import Path

from jaxllm.reporting.page import render_report
from jaxllm.reporting.run import read_run


def report(runs: Sequence[Path], *, out: Path | None = None) -> Path:
    """Writes one HTML page about `runs` (run folders) and returns where it is.

    Without `out`, the page of one run is its report.html, and that of several the comparison.html
    of the first. Raises ValueError for a folder that is not a run.
    """
    page = render_report([read_run(Path(run)) for run in runs])
    if out is None:
        out = Path(runs[0]) / ("report.html" if len(runs) == 1 else "comparison.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, out)
    return out
