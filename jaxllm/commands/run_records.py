"""What a run tells of itself, in its folder: metrics, where its time went, and how it ended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxllm.commands.run_folder import METRICS_FILE, SUMMARY_FILE, write_text
from jaxllm.config import RunConfig
from jaxllm.parallel import distributed
from jaxllm.training.goodput import Goodput
from jaxllm.training.metrics import MetricsWriter, cut_back, json_value, last_step

_LATEST_RECORDS = 100  # more than one step has


def open_goodput(goodput: Goodput, run_dir: Path, *, step: int, say: Callable[[str], None]) -> None:
    """Go on with the account of the run's time, on the first process, before metrics are cut."""
    if distributed.is_first():
        goodput.open(run_dir, step=step, furthest=last_step(run_dir), say=say)


def open_metrics(
    run_dir: Path, config: RunConfig, *, step: int, say: Callable[[str], None]
) -> MetricsWriter:
    """The metrics of the run, cut back to `step`; on other processes one that writes nothing.

    say: told once when they cannot be written, and when they can again, where the run goes on.
    """
    if not distributed.is_first():
        return MetricsWriter([])
    cut_back(run_dir, step)
    return config.metrics.build(run_dir, config.model_dump(mode="json"), say=say)


def lacks_scores(run_dir: Path, step: int) -> bool:
    """Whether the metrics end with the training of `step`, without scores or samples of it.

    All processes call it together.
    """
    has_more = False
    path = run_dir / METRICS_FILE
    if distributed.is_first() and path.is_file():
        for line in path.read_bytes().splitlines()[-_LATEST_RECORDS:]:
            record = json.loads(line)
            has_more |= record["step"] == step and "loss" not in record
    return not distributed.from_first("yes" if has_more else "")


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Write summary.json, which says that the run is complete. NaN is spelled as in metrics."""
    plain = {key: json_value(value) for key, value in summary.items()}
    write_text(run_dir / SUMMARY_FILE, json.dumps(plain, indent=2, allow_nan=False) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """The summary of a complete run, or None."""
    path = run_dir / SUMMARY_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
