"""Where the wall time of a run went, and what interrupted it: goodput.jsonl as the report reads it.

The names of kinds, events and phases are those that training writes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from jaxllm.exit_codes import EXIT_USAGE

ACCOUNT_FILE = "goodput.jsonl"

KINDS = {
    "step": "Steps",
    "recomputation": "Steps done again",
    "data": "Waiting for data",
    "evaluation": "Evaluation",
    "checkpoint": "Saving",
    "compile": "Compiling",
    "other": "Start and end",
    "restart": "Restarts",
}
"""What is said of each kind of second, in the order that they are stacked in."""

# Of these seconds an uninterrupted run would not have had any more.
_LOST = ("restart", "compile", "recomputation")
_DOING = {
    "start": "starting",
    "restore": "restoring",
    "compile": "compiling",
    "checkpoint": "saving",
    "evaluation": "evaluating",
    "end": "ending",
}


@dataclass(frozen=True)
class Span:
    """From `start` to `end` (seconds since the run's first start), `seconds` of each kind."""

    start: float
    end: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Interruption:
    """A start of the run that ended too early, or a rollback within one, and what that cost.

    at: of its last sign of life, in seconds since the first start. step: the last one it had
    finished, as far as is known; resumed: the step that the run went on from. lost: seconds by
    kind, in what came next.
    """

    at: float
    step: int
    resumed: int
    how: str
    lost: Mapping[str, float]
    is_rollback: bool = False

    @property
    def lost_seconds(self) -> float:
        """All that an uninterrupted run would not have spent."""
        return sum(self.lost.values())

    @property
    def lost_steps(self) -> int:
        """Steps that had to be done again."""
        return max(self.step - self.resumed, 0)


@dataclass(frozen=True)
class Account:
    """The wall time of a run, in spans that follow each other."""

    spans: tuple[Span, ...]
    interruptions: tuple[Interruption, ...]

    @property
    def wall(self) -> float:
        """Seconds from the first start to the last record."""
        return max(self.spans[-1].end, 1e-3)

    @property
    def seconds(self) -> dict[str, float]:
        """All seconds by kind, in the order of `KINDS`, without those of none."""
        total = {kind: sum(span.seconds.get(kind, 0.0) for span in self.spans) for kind in KINDS}
        return {kind: spent for kind, spent in total.items() if spent > 0}

    @property
    def goodput(self) -> float:
        """The share of all seconds that went into productive steps."""
        seconds = self.seconds
        return seconds.get("step", 0.0) / max(sum(seconds.values()), 1e-9)

    def binned(self, count: int, *, until: float) -> list[dict[str, float]]:
        """Seconds by kind in each of `count` equal stretches from 0 to `until`.

        Within a span nothing is known of the order: its kinds are spread over it evenly.
        """
        bins: list[dict[str, float]] = [{} for _ in range(count)]
        width = until / count
        for span in self.spans:
            first = min(int(span.start / width), count - 1)
            last = min(int(span.end / width), count - 1)
            length = span.end - span.start
            for index in range(first, last + 1):
                inside = min(span.end, (index + 1) * width) - max(span.start, index * width)
                share = inside / length if length > 0 and last > first else 1.0
                for kind, spent in span.seconds.items():
                    bins[index][kind] = bins[index].get(kind, 0.0) + spent * share
        return bins


def read_account(path: Path) -> Account | None:
    """The account of a run folder; None where it has none. Damaged lines are left out."""
    file = path / ACCOUNT_FILE
    records = _records(file.read_bytes()) if file.is_file() else []
    if not records:
        return None
    origin = records[0]["time"]
    spans, last = [], origin
    for record in records:
        at = max(record["time"], last)
        spans.append(Span(last - origin, at - origin, record["seconds"]))
        last = at
    return Account(tuple(spans), _interruptions(records, origin))


def _records(content: bytes) -> list[dict[str, Any]]:
    records = []
    for line in content.splitlines():
        try:
            record = json.loads(line)
            seconds = {k: float(v) for k, v in record["seconds"].items() if k in KINDS}
            known = {"time": float(record["time"]), "step": int(record["step"]), "seconds": seconds}
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        records.append({**record, **known})
    return records


def _interruptions(records: Sequence[Mapping[str, Any]], origin: float) -> tuple[Interruption, ...]:
    cuts = [i for i, record in enumerate(records) if i and _is_cut(records, i)]
    found = []
    for cut, stop in pairwise([*cuts, len(records)]):
        record, before = records[cut], records[cut - 1]
        # What a rollback says it spent came before it, what a start says after the one before.
        is_rollback = record.get("event") == "rollback"
        until = stop + (stop < len(records) and records[stop].get("event") == "rollback")
        lost = {
            kind: sum(one["seconds"].get(kind, 0.0) for one in records[cut + is_rollback : until])
            for kind in _LOST
        }
        if is_rollback:
            at, step, resumed = record["time"], record["step"], int(record.get("to", 0))
            how = "went back, for steps were skipped in a row"
        elif _ending(record) is None:
            continue
        else:
            at, resumed = before["time"], record["step"]
            step = max(before["step"], int(record.get("furthest", 0)))
            how = _how(record["before"])
        found.append(
            Interruption(at - origin, step, resumed, how, lost=lost, is_rollback=is_rollback)
        )
    return tuple(found)


def _is_cut(records: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether something else begins here: a rollback, or a start that was not just refused before.

    One that was refused has trained nothing, and what comes after it still is of the cut before.
    """
    record = records[index]
    if record.get("event") != "start" or _ending(record) is not None:
        return record.get("event") in ("start", "rollback")
    before = record.get("before")
    if not isinstance(before, dict) or before.get("code") != EXIT_USAGE:
        return True
    earlier = [one["step"] for one in records[:index] if one.get("event") == "start"]
    return not earlier or earlier[-1] != records[index - 1]["step"]


def _ending(start: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How the start before was interrupted; None where it was not."""
    ending = start.get("before")
    if not isinstance(ending, dict) or ending.get("code", 1) in (0, EXIT_USAGE):
        return None
    return ending


def _how(ending: Mapping[str, Any]) -> str:
    """How a start ended, in a few words."""
    if "phase" in ending:
        return f"killed while {_DOING.get(str(ending['phase']), 'training')}"
    reason, code = str(ending.get("reason") or "ended"), ending.get("code")
    return reason if code is None else f"{reason}, exit code {code}"
