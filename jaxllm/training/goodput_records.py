"""goodput.jsonl: where the wall time of a run went, over all its starts.

The file grows only, also where metrics.jsonl is cut back, for time does not go back. It has records
    {"event": "start", "time": T, "step": S, "furthest": F, "before": B, "seconds": {...}}
    {"event": "spans", "time": T, "step": S, "phase": P, "seconds": {...}}
    {"event": "rollback", "time": T, "step": S, "to": S, "seconds": {...}}
    {"event": "end", "time": T, "step": S, "code": C, "reason": R, "seconds": {...}}
time: seconds since 1970, never less than in the record before. step: finished. seconds: by kind,
between the record before and this one. furthest: the last step that any start had finished. before:
how the start before ended, {"code": C, "reason": R}, or {"phase": P} if it left no word: it was
killed, last seen in phase P; null at the first start. phase: what the host goes on with. to: the
step gone back to. code: the exit code, null where an error ended the start; 2 where that was one of
usage or config. A killed start is missing its last seconds, ten at most: they are in the restart of
the next one.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jaxllm.exit_codes import EXIT_USAGE

GOODPUT_FILE = "goodput.jsonl"

Kind = Literal[
    "step", "recomputation", "data", "compile", "checkpoint", "evaluation", "restart", "other"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Earlier(NamedTuple):
    """What goodput.jsonl says of the starts before. `time` and `ending` are None at the first."""

    seconds: dict[Kind, float]
    time: float | None
    furthest: int
    ending: dict[str, Any] | None

    @property
    def is_interrupted(self) -> bool:
        """Whether a start was cut short, rather than done, never made, or ended by its config."""
        return self.ending is not None and self.ending.get("code", 1) not in (0, EXIT_USAGE)


def read_earlier(path: Path) -> Earlier:
    """Reads goodput.jsonl, and takes a torn last record off it. A damaged one is passed over."""
    seconds: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
    if not path.exists():
        return Earlier(seconds, None, 0, None)
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    last, furthest = None, 0
    for line in content[:whole].splitlines():
        try:
            record = json.loads(line)
            at, spent = float(record["time"]), record["seconds"]
            furthest = max(furthest, int(record["step"]), int(record.get("furthest", 0)))
        except (ValueError, TypeError, KeyError):
            continue
        last = {**record, "time": at}
        for kind in KINDS:
            seconds[kind] += float(spent.get(kind, 0.0))
    if last is None:
        return Earlier(seconds, None, furthest, None)
    if last["event"] == "end":
        ending = {key: last.get(key) for key in ("code", "reason")}
    else:
        ending = {"phase": last.get("phase", "start")}
    return Earlier(seconds, last["time"], furthest, ending)
