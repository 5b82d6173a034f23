"""What the report reads is what the run has counted."""

import json
from typing import get_args

import pytest

from jaxllm.reporting import account
from jaxllm.reporting.account import read_account
from jaxllm.training.goodput_records import GOODPUT_FILE, KINDS
from jaxllm.training.phases import Phase

from .accounts import write_account


def test_the_names_are_those_of_training():
    assert set(account.KINDS) == set(KINDS)
    assert account.ACCOUNT_FILE == GOODPUT_FILE
    assert set(account._DOING) == set(get_args(Phase)) - {"step", "data"}


@pytest.mark.parametrize("interruptions", [0, 1, 7])
def test_the_seconds_are_those_that_the_run_has_counted(tmp_path, interruptions):
    counted = write_account(tmp_path, interruptions=interruptions)
    found = read_account(tmp_path)
    # Records hold milliseconds; what is rounded away at the end of a start is lost.
    assert found.seconds == pytest.approx(
        {kind: spent for kind, spent in counted.items() if spent}, abs=0.01
    )
    assert found.wall == pytest.approx(sum(counted.values()), abs=0.01)
    assert found.goodput == pytest.approx(counted["step"] / sum(counted.values()), abs=1e-4)
    assert len(found.interruptions) == interruptions


def test_every_interruption_says_when_how_and_what_was_lost(tmp_path):
    write_account(tmp_path, interruptions=4, steps=2000)
    cuts = read_account(tmp_path).interruptions
    assert [cut.how for cut in cuts] == [
        "OSError: <b>the disk</b> is full",
        "killed while training",
        "killed while training",
        "SIGTERM, exit code 75",
    ]
    assert [cut.at for cut in cuts] == sorted(cut.at for cut in cuts)
    for cut in cuts:
        assert cut.resumed == cut.step // 100 * 100  # there is a checkpoint every 100 steps
        assert cut.lost_steps == cut.step - cut.resumed
        assert cut.lost["compile"] == 45
    # Each step of a second, but for those of the last moments of a kill that no record has.
    for cut in (cuts[0], cuts[3]):
        assert cut.lost["recomputation"] == pytest.approx(cut.lost_steps, abs=0.01)
    recomputed = sum(cut.lost["recomputation"] for cut in cuts)
    assert recomputed == pytest.approx(read_account(tmp_path).seconds["recomputation"], abs=0.01)


@pytest.mark.parametrize("count", [1, 7, 400])
def test_columns_hold_every_second_once(tmp_path, count):
    write_account(tmp_path, interruptions=3)
    found = read_account(tmp_path)
    bins = found.binned(count, until=found.wall)
    for kind, spent in found.seconds.items():
        assert sum(one.get(kind, 0.0) for one in bins) == pytest.approx(spent)
    for one in bins:
        assert sum(one.values()) == pytest.approx(found.wall / count, rel=0.02, abs=0.01)
    half = found.binned(count, until=2 * found.wall)
    assert sum(sum(one.values()) for one in half[count // 2 + 1 :]) == 0


def test_a_run_made_longer_was_not_interrupted(tmp_path):
    write_account(tmp_path, interruptions=0)
    lines = (tmp_path / "goodput.jsonl").read_text().splitlines()
    start = json.loads(lines[0])
    later = {"time": json.loads(lines[-1])["time"] + 100, "seconds": {"other": 100}, "step": 2000}
    start |= later | {"furthest": 2000, "before": {"code": 0, "reason": "done"}}
    (tmp_path / "goodput.jsonl").write_text("\n".join([*lines, json.dumps(start)]) + "\n")
    found = read_account(tmp_path)
    assert found.interruptions == ()
    assert found.seconds["other"] > 100


def write_lines(run_dir, *lines):
    """Records a second after another, from second 0."""
    text = "".join(
        json.dumps({"time": float(at), "step": 0, "seconds": {}} | line) + "\n"
        for at, line in enumerate(lines)
    )
    (run_dir / "goodput.jsonl").write_text(text)


def start(step, before=None, /, **seconds):
    known = {"event": "start", "furthest": step, "before": before}
    return known | {"step": step, "seconds": seconds}


def spans(step, /, **seconds):
    return {"event": "spans", "step": step, "phase": "step", "seconds": seconds}


def test_a_rollback_is_a_cut_of_its_own(tmp_path):
    rollback = {"event": "rollback", "step": 27, "to": 12, "seconds": {"recomputation": 5}}
    write_lines(
        tmp_path,
        start(0),
        spans(20, step=20),
        start(12, {"code": 75, "reason": "SIGTERM"}, restart=4),
        spans(20, recomputation=3),
        rollback,
        spans(30, restart=1, recomputation=7, step=9),
    )
    stop, back = read_account(tmp_path).interruptions
    assert (stop.is_rollback, stop.step, stop.resumed) == (False, 20, 12)
    assert stop.lost == {"restart": 4, "compile": 0, "recomputation": 8}
    assert (back.is_rollback, back.at, back.step, back.resumed) == (True, 4, 27, 12)
    assert back.lost == {"restart": 1, "compile": 0, "recomputation": 7}
    assert back.lost_steps == 15
    assert "went back" in back.how


def test_a_refused_start_is_no_interruption_and_parts_none(tmp_path):
    refused = {"code": 2, "reason": "ValueError: no"}
    write_lines(
        tmp_path,
        start(0),
        spans(20, step=20),
        start(12, {"phase": "step"}, restart=4),
        {"event": "end", "step": 12, **refused},
        start(12, refused, other=3000),
        spans(30, compile=2, recomputation=8, step=9),
        {"event": "end", "step": 30, **refused},  # of a run that trained and cannot go on
        start(30, refused),
        spans(40, compile=9, step=9),
    )
    (cut,) = read_account(tmp_path).interruptions
    assert cut.how == "killed while training"
    assert cut.lost == {"restart": 4, "compile": 2, "recomputation": 8}


def test_what_is_no_record_is_left_out(tmp_path):
    assert read_account(tmp_path) is None
    path = tmp_path / "goodput.jsonl"
    path.write_bytes(b"")
    assert read_account(tmp_path) is None
    good = b'{"event": "start", "time": 5.0, "step": 0, "before": null, "seconds": {}}\n'
    later = b'{"event": "spans", "time": 9.0, "step": 1, "seconds": {"step": 4, "new": 9}}\n'
    bad = b'nonsense\n[]\n{"time": 7, "step": 1, "seconds": []}\n{"time": "x"}\n'
    path.write_bytes(bad + good + bad + later + b'{"event": "sp')
    found = read_account(tmp_path)
    assert found.seconds == {"step": 4}
    assert found.wall == 4


def test_times_that_go_back_make_no_negative_span(tmp_path):
    lines = [
        {"event": "start", "time": t, "step": 0, "before": None, "seconds": {}} for t in (9, 3, 11)
    ]
    (tmp_path / "goodput.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(s.start, s.end) for s in read_account(tmp_path).spans] == [(0, 0), (0, 0), (0, 2)]
