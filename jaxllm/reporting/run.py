"""A run folder as the report reads it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxllm.reporting.account import Account, read_account
from jaxllm.reporting.series import Series

_TEXTS = ("sample", "prompt")
# What holds for a stretch of time, so that in a mean it counts by the length of it.
_SPEED = "tokens_per_second"
_OVER_TIME = (_SPEED, "tokens_per_second_per_device", "mfu", "data_wait_share")
_CONTENTS = (
    "A run folder holds config.yaml and metrics.jsonl, and summary.json once the run is done; "
    "`jaxllm train` makes one, at the config key run_dir"
)


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote after `step` steps, continuing `prompt`."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class RunRecords:
    """All that a run folder says. `summary` is empty while the run is not done, `account` None for
    a run that kept none."""

    name: str
    path: Path
    config: Mapping[str, Any]
    config_text: str
    series: Mapping[str, Series]
    samples: tuple[Sample, ...]
    summary: Mapping[str, Any]
    problems: tuple[str, ...]
    account: Account | None = None

    @property
    def last_step(self) -> int | None:
        """The last step with a record of numbers; None before the first one."""
        return max((int(series.steps[-1]) for series in self.series.values()), default=None)


def read_run(path: Path) -> RunRecords:
    """Reads a run folder, also one that is being written.

    Raises ValueError that says what a run folder holds if `path` is none, or names the file that
    cannot be read.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder. {_CONTENTS}.")
    missing = [name for name in ("config.yaml", "metrics.jsonl") if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}. {_CONTENTS}.")
    config_text = (path / "config.yaml").read_text(encoding="utf-8", errors="replace")
    records, problems = _read_records(path / "metrics.jsonl")
    return RunRecords(
        name=path.resolve().name,
        path=path,
        config=_read_config(path / "config.yaml", config_text),
        config_text=config_text,
        series=_series(records),
        samples=_samples(records),
        summary=_read_summary(path / "summary.json"),
        problems=tuple(problems),
        account=read_account(path),
    )


def _read_config(path: Path, text: str) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, not a mapping of config keys.")
    return config


def _read_summary(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(summary, dict):
        raise ValueError(f"{path} holds a {type(summary).__name__}, not an object.")
    return {key: _number(value) for key, value in summary.items()}


def _read_records(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of metrics.jsonl, and sentences about lines that are none.

    A torn last line is no problem: the run is being written, or was killed inside a record.
    """
    records, problems = [], []
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
            records.append(record)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                problems.append(f"line {number} of metrics.jsonl is not a record and is left out")
    return records, problems


def _series(records: list[dict[str, Any]]) -> dict[str, Series]:
    """Every number by its name. A step that appears twice counts as last written."""
    points: dict[str, dict[int, float]] = {}
    for record in records:
        if any(key in record for key in _TEXTS):
            continue
        for key, value in record.items():
            number = _number(value)
            if key != "step" and isinstance(number, float):
                points.setdefault(key, {})[record["step"]] = number
    return _weighed_by_time({key: _sorted(steps) for key, steps in points.items()})


def _weighed_by_time(series: dict[str, Series]) -> dict[str, Series]:
    """Speeds and shares of time with the time of each record: its steps over its speed.

    The mean speed of some records is then all their tokens over all their time.
    """
    speed = series.get(_SPEED)
    if speed is None:
        return series
    is_known = np.isfinite(speed.values) & (speed.values > 0)
    times = np.diff(speed.steps, prepend=0) / np.where(is_known, speed.values, np.inf)
    timed = [
        key
        for key in _OVER_TIME
        if key in series and np.array_equal(series[key].steps, speed.steps)
    ]
    return {**series, **{key: replace(series[key], weights=times) for key in timed}}


def _sorted(points: dict[int, float]) -> Series:
    steps = np.array(sorted(points), np.int64)
    return Series(steps, np.array([points[step] for step in steps.tolist()], np.float64))


def _samples(records: list[dict[str, Any]]) -> tuple[Sample, ...]:
    samples = {
        (record["step"], str(record.get("prompt", ""))): str(record["sample"])
        for record in records
        if "sample" in record
    }
    written = (Sample(step, prompt, text) for (step, prompt), text in samples.items())
    return tuple(sorted(written, key=lambda sample: sample.step))


def _number(value: Any) -> Any:
    """A number as a float, also the strings that stand for those JSON lacks; else `value`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
