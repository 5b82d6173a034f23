"""Skipped steps on disk, and going back from where a run got stuck.

skipped.jsonl has a line for each skipped step: its number, the reason, and the rows of its batch.
rollbacks.json has the times that the run went back, and is the only source of which batches are
left out. What a rollback leaves out follows from the steps alone, not from which checkpoint it
goes back to: every checkpoint before the first batch left out leads to the same run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxllm.parallel import distributed
from jaxllm.training.anomaly import Verdict
from jaxllm.training.logfile import LogFile, replace_file
from jaxllm.training.metrics import SKIPPED_FILE, json_value

ROLLBACKS_FILE = "rollbacks.json"

# Accepted steps before the skipped ones that are left out too. Without any, the run would come
# back to the very weights it got stuck with; the update that hurt came shortly before it showed.
BLAMED_STEPS = 10


class Batches(Protocol):
    """A loader, as far as the names of its batches and rows go. Steps count from 0."""

    def batch_number(self, step: int) -> int: ...

    def rows_of(self, step: int) -> list[tuple[str, int]]: ...


# A run this young begins anew where no checkpoint is old enough; a longer one is not thrown away.
YOUNG_STEPS = 100


class RunStuck(ValueError):
    """Steps were skipped in a row again, and the run may not, or cannot, go back once more.

    Only another config helps: the same command would come to the same step.
    """


class Rollback(NamedTuple):
    """from_step: the last step done before. to_step: the step of the checkpoint gone back to.

    batches: numbers of the batches left out from then on. skipped: the lines of skipped.jsonl
    about the steps that caused it.
    """

    from_step: int
    to_step: int
    batches: tuple[int, ...]
    skipped: tuple[dict[str, Any], ...] = ()


def log_skipped(run_dir: Path, verdict: Verdict, batches: Batches) -> None:
    """Add a skipped step to skipped.jsonl, on the first process. OSError that names the file."""
    if not distributed.is_first():
        return
    record = {
        "step": verdict.step,
        "reason": verdict.reason,
        "loss": json_value(verdict.loss),
        "gradient_norm": json_value(verdict.gradient_norm),
        "batch": batches.batch_number(verdict.step - 1),
        "rows": batches.rows_of(verdict.step - 1),
    }
    with LogFile(run_dir / SKIPPED_FILE) as log:
        log.append(json.dumps(record).encode() + b"\n")


def read_rollbacks(run_dir: Path) -> tuple[Rollback, ...]:
    """The times that the run went back, in order. All processes call it together.

    The first one reads: on a network file system others may see an older file for a while.
    """
    path = run_dir / ROLLBACKS_FILE
    is_there = distributed.is_first() and path.is_file()
    text = distributed.from_first(path.read_text(encoding="utf-8") if is_there else "[]")
    return tuple(
        Rollback(entry["from"], entry["to"], tuple(entry["batches"]), tuple(entry["skipped"]))
        for entry in json.loads(text)
    )


def batches_left_out(run_dir: Path) -> tuple[int, ...]:
    """The numbers of the batches that no step reads, ascending; for the loader."""
    return tuple(sorted({n for rollback in read_rollbacks(run_dir) for n in rollback.batches}))


def plan_rollback(
    run_dir: Path,
    verdict: Verdict,
    batches: Batches,
    *,
    kept_steps: Sequence[int],
    can_begin_anew: bool,
    max_rollbacks: int,
) -> Rollback:
    """Where the run goes back to after `verdict`, and what it leaves out from then on.

    kept_steps: of the sound checkpoints there are. can_begin_anew: whether step 0 needs none, as
    without imported weights; a young run, and one without any checkpoint, goes back there where
    none is old enough. RunStuck after `max_rollbacks`, or where there is nothing to go back to.
    All processes call it together.
    """
    before = read_rollbacks(run_dir)
    first_skipped = verdict.step - verdict.in_a_row + 1
    newest_sound = max(0, first_skipped - 1 - BLAMED_STEPS)
    if len(before) >= max_rollbacks:
        raise RunStuck(_stuck(run_dir, verdict, first_skipped, before))
    sound = [step for step in kept_steps if step <= newest_sound]
    is_young = newest_sound < YOUNG_STEPS or not kept_steps
    if not sound and not (can_begin_anew and is_young):
        raise RunStuck(
            f"steps {first_skipped} to {verdict.step} were skipped ({verdict.reason}), but no "
            f"checkpoint is kept of step {newest_sound} or before; there are {list(kept_steps)}. "
            "Raise checkpoints.keep_latest in the next run; to go on with this one, train with "
            "training.anomalies=null --change training.anomalies, which skips nothing"
        )
    return Rollback(
        from_step=verdict.step,
        to_step=max(sound, default=0),
        batches=tuple(batches.batch_number(step) for step in range(newest_sound, verdict.step)),
        skipped=_skipped_records(run_dir, first_skipped, verdict.step),
    )


def record_rollback(run_dir: Path, rollback: Rollback) -> None:
    """Write a rollback down, on the first process, before training goes on; all processes wait."""
    rollbacks = (*read_rollbacks(run_dir), rollback)
    if distributed.is_first():
        entries = [
            {"from": each.from_step, "to": each.to_step, "batches": each.batches}
            | {"skipped": each.skipped}
            for each in rollbacks
        ]
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        replace_file(run_dir / ROLLBACKS_FILE, f"[\n{lines}\n]\n".encode())
    distributed.barrier("rollback")


def _skipped_records(run_dir: Path, first: int, last: int) -> tuple[dict[str, Any], ...]:
    path = run_dir / SKIPPED_FILE
    if not distributed.is_first() or not path.is_file():
        return ()
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(record for record in records if first <= record["step"] <= last)


def _stuck(run_dir: Path, verdict: Verdict, first: int, before: Sequence[Rollback]) -> str:
    went = "; ".join(f"from step {each.from_step} to {each.to_step}" for each in before)
    so_far = f"it went back {len(before)} times already: {went}" if before else "it may not go back"
    return (
        f"{run_dir}: steps {first} to {verdict.step} were skipped in a row ({verdict.reason}), and "
        f"{so_far}. The checkpoints are whole. Raise training.anomalies.max_rollbacks to let it go "
        "back more often. Or go on as another run: with a lower rate, as by "
        "optim.learning_rate=... --change optim.learning_rate, or, if such losses are right for "
        "the data, by training.anomalies.max_loss_factor=null --change training.anomalies"
    )
