"""The decisions alone; no process is started."""

import signal

import pytest

from jaxllm.commands.restarts import Restarts, code_when_asked, ending_words

KILLED = -signal.SIGKILL


@pytest.mark.parametrize(
    ("codes", "exit_code"),
    [
        ((0, 0, 0), 0),
        ((0, 2, 75), 2),
        ((KILLED, 2, 1), 2),
        ((75, 130, 75), 130),
        ((130, 2), 2),
        ((75, 75), None),
        ((0, 0, 75), None),
        ((0, KILLED), None),
        ((1, 75, -signal.SIGTERM), None),
        ((3,), None),
    ],
)
def test_done_wrong_and_ctrl_c_are_final_and_all_else_starts_again(codes, exit_code):
    assert Restarts().after(codes, newest_step=None).exit_code == exit_code


def test_pauses_double_up_to_the_longest_and_then_it_gives_up():
    restarts = Restarts(max_restarts=6, max_backoff=10.0)
    verdicts = [restarts.after((KILLED,), newest_step=None) for _ in range(7)]
    assert [verdict.pause for verdict in verdicts[:6]] == [1, 2, 4, 8, 10, 10]
    assert [verdict.exit_code for verdict in verdicts] == [None] * 6 + [1]
    assert verdicts[1].words == "restarting in 2 s (try 2 of 6)"
    assert verdicts[6].words == "giving up: 6 restarts without any checkpoint"


def test_only_a_newer_checkpoint_resets_the_count():
    """One that is found corrupt and set aside makes the newest older, and is not progress twice."""
    restarts = Restarts(max_restarts=3, newest_step=10)
    steps = [10, None, 20, 20, 10, 20, 30, 30]
    pauses = [restarts.after((1,), newest_step=step).pause for step in steps[:5]]
    assert pauses == [1, 2, 1, 2, 4]
    assert restarts.after((1,), newest_step=20).exit_code == 1
    assert restarts.after((1,), newest_step=30).pause == 1


def test_without_restarts_the_first_failure_is_the_end():
    assert Restarts(max_restarts=0).after((KILLED, 75), newest_step=5).exit_code == 1
    assert Restarts(max_restarts=0).after((0, 75), newest_step=5).exit_code == 75


@pytest.mark.parametrize(
    ("asked", "codes", "exit_code"),
    [
        (signal.SIGTERM, (75, 75), 75),
        (signal.SIGTERM, (75, KILLED), 75),
        (signal.SIGTERM, (), 75),
        (signal.SIGHUP, (75, 75), 75),
        (signal.SIGINT, (130, 130), 130),
        (signal.SIGINT, (), 130),
        (signal.SIGTERM, (0, 0), 0),
        (signal.SIGTERM, (2, 2), 2),
    ],
)
def test_what_was_asked_is_the_code_unless_the_run_was_complete_or_wrong(asked, codes, exit_code):
    assert code_when_asked(asked, codes) == exit_code


def test_a_signal_is_named():
    assert ending_words(KILLED) == "ended with signal 9 (SIGKILL)"
    assert ending_words(-signal.SIGRTMIN - 1) == f"ended with signal {signal.SIGRTMIN + 1}"
    assert ending_words(75) == "ended with code 75"
