"""What is skipped is on disk by row; where a run goes back to does not change what it becomes."""

import json
import math
from typing import NamedTuple

import pytest

from jaxllm.commands import rollback
from jaxllm.commands.rollback import BLAMED_STEPS, YOUNG_STEPS, Rollback, RunStuck
from jaxllm.data import TrainLoader
from jaxllm.data.rows import TokenRows
from jaxllm.data.streams import SyntheticStream
from jaxllm.training.anomaly import AnomalyConfig, judge
from jaxllm.training.metrics import cut_back

STREAM = SyntheticStream(num_tokens=4096, vocab_size=50, mean_document_tokens=9, seed=0)
GUARD = AnomalyConfig(patience=3, max_rollbacks=3)


def loader(run_dir):
    """As a start of the command opens it."""
    return TrainLoader(
        {"ids": (TokenRows(STREAM, 16, name="ids"), 1.0)},
        sequence_length=16,
        global_batch_size=4,
        seed=0,
        skipped=rollback.batches_left_out(run_dir),
    )


def verdict(step, in_a_row):
    skipped = {"is_skipped": 1.0, "skipped_in_a_row": float(in_a_row)}
    return judge({"step": step, "loss": math.nan, "gradient_norm": math.inf, **skipped}, GUARD)


def plan(run_dir, found, kept, *, anew=True, most=3):
    return rollback.plan_rollback(
        run_dir,
        found,
        loader(run_dir),
        kept_steps=kept,
        can_begin_anew=anew,
        max_rollbacks=most,
    )


def lines(run_dir):
    return [json.loads(line) for line in (run_dir / "skipped.jsonl").read_text().splitlines()]


def test_a_skipped_step_is_written_with_its_rows_and_cut_back_with_the_metrics(tmp_path):
    batches = loader(tmp_path)
    for step, in_a_row in ((3, 1), (7, 1), (8, 2)):
        rollback.log_skipped(tmp_path, verdict(step, in_a_row), batches)
    first = lines(tmp_path)[0]
    assert first == {
        "step": 3,
        "reason": "its loss is not finite",
        "loss": "NaN",
        "gradient_norm": "Infinity",
        "batch": 2,
        "rows": [["ids", row] for _, row in batches.rows_of(2)],
    }
    with open(tmp_path / "skipped.jsonl", "a") as file:
        file.write('{"step": 9, "rea')  # killed while it was written
    cut_back(tmp_path, 7)
    assert [line["step"] for line in lines(tmp_path)] == [3, 7]


def test_a_rollback_is_read_as_it_was_written(tmp_path):
    assert rollback.read_rollbacks(tmp_path) == rollback.batches_left_out(tmp_path) == ()
    for step, in_a_row in ((32, 1), (34, 1), (35, 2), (36, 3)):
        rollback.log_skipped(tmp_path, verdict(step, in_a_row), loader(tmp_path))
    planned = plan(tmp_path, verdict(36, 3), [10, 20, 30])
    assert (planned.from_step, planned.to_step) == (36, 20)
    # Those of the steps after 33 - BLAMED_STEPS, which read one batch each, from 0.
    assert planned.batches == tuple(range(33 - BLAMED_STEPS, 36))
    assert [record["step"] for record in planned.skipped] == [34, 35, 36]
    assert all(len(record["rows"]) == 4 for record in planned.skipped)
    rollback.record_rollback(tmp_path, planned)
    assert rollback.read_rollbacks(tmp_path) == (planned,)
    second = Rollback(50, 40, (50, 49))
    rollback.record_rollback(tmp_path, second)
    assert rollback.read_rollbacks(tmp_path) == (planned, second)
    assert rollback.batches_left_out(tmp_path) == (*planned.batches, 49, 50)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_batches_are_numbered_past_those_left_out_before(tmp_path):
    rollback.record_rollback(tmp_path, Rollback(6, 0, (2, 3, 4)))
    planned = plan(tmp_path, verdict(5, 3), [])
    assert planned.to_step == 0
    assert planned.batches == (0, 1, 5, 6, 7)


def test_without_an_old_checkpoint_a_young_run_starts_over_and_an_old_one_ends(tmp_path):
    young = YOUNG_STEPS - 1 + BLAMED_STEPS + 3  # of the first that is judged at all
    assert plan(tmp_path, verdict(9, 3), [8]).to_step == 0
    assert plan(tmp_path, verdict(young, 3), [young - 1]).to_step == 0
    with pytest.raises(RunStuck, match=r"of step 100 or before; there are \[112\].*keep_latest"):
        plan(tmp_path, verdict(young + 1, 3), [112])
    # Nothing was ever saved: step 0 is all there is, however far it is.
    assert plan(tmp_path, verdict(900, 3), []).to_step == 0
    assert plan(tmp_path, verdict(900, 3), [800]).to_step == 800


def test_what_began_with_imported_weights_does_not_begin_anew_without_them(tmp_path):
    for kept in ([8], []):
        with pytest.raises(RunStuck, match="no checkpoint is kept of step 0"):
            plan(tmp_path, verdict(9, 3), kept, anew=False)
    assert plan(tmp_path, verdict(9, 3), [0, 8], anew=False).to_step == 0


def test_a_run_that_is_stuck_is_not_tried_again_as_it_is():
    assert issubclass(RunStuck, ValueError)  # the commands end with 2, where launchers stop


def test_the_last_rollback_is_followed_by_an_error_that_names_all(tmp_path):
    for step in (20, 30):
        rollback.record_rollback(tmp_path, Rollback(step, step - 15, (step,)))
    plan(tmp_path, verdict(40, 3), [0], most=3)
    message = r"steps 38 to 40 .*from step 20 to 5; from step 30 to 15.*max_rollbacks"
    with pytest.raises(RunStuck, match=message):
        plan(tmp_path, verdict(40, 3), [0], most=2)
    with pytest.raises(RunStuck, match="it may not go back"):
        plan(tmp_path / "other", verdict(40, 3), [0], most=0)


class Toy(NamedTuple):
    """A state: the batches that made the weights, and the guard's count."""

    batches: tuple = ()
    in_a_row: int = 0


def run(run_dir, *, steps=60, save_at, dies_at=()):
    """A run whose weights batch 31 spoils, so that no batch after it is any good.

    Saved after the steps `save_at`. It is killed in front of each of `dies_at`, and started again.
    """
    deaths, saved = list(dies_at), {}
    while True:  # each time a start of the command, or a rollback
        batches = loader(run_dir)
        step = max(saved, default=0)
        state = saved.get(step, Toy())
        cut_back(run_dir, step)
        while step < steps:
            if step + 1 in deaths:
                deaths.remove(step + 1)
                break
            number, step = batches.batch_number(step), step + 1
            if 31 in state.batches and number > 33:
                state = state._replace(in_a_row=state.in_a_row + 1)
                found = verdict(step, state.in_a_row)
                rollback.log_skipped(run_dir, found, batches)
                if found.must_roll_back:
                    planned = plan(run_dir, found, sorted(saved))
                    saved = {at: kept for at, kept in saved.items() if at <= planned.to_step}
                    rollback.record_rollback(run_dir, planned)
                    break
            else:
                state = Toy((*state.batches, number))
            if step in save_at:
                saved[step] = state
        else:
            return state, [
                (each.from_step, each.batches) for each in rollback.read_rollbacks(run_dir)
            ]


def test_checkpoints_and_kills_do_not_change_what_is_left_out(tmp_path):
    expected, rollbacks = run(tmp_path / "whole", save_at=range(10, 60, 10))
    blamed = tuple(range(34 - BLAMED_STEPS, 37))
    assert rollbacks == [(37, blamed)]
    assert expected.batches == tuple(n for n in range(73) if n not in blamed)
    for index, (save_at, dies_at) in enumerate(
        [
            (range(5, 60, 5), ()),
            (range(1, 60), (36, 37, 37, 40)),
            (range(10, 60, 10), (12, 26, 35, 36)),
            ((20,), (36, 33, 50)),
        ]
    ):
        ended = run(tmp_path / str(index), save_at=save_at, dies_at=dies_at)
        assert ended == (expected, rollbacks)
