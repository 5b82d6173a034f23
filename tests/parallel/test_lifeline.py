"""Real processes on loopback that have nothing but a lifeline."""

import json
import signal
import socket
import time
from contextlib import suppress

import pytest

from jaxllm.parallel.lifeline_server import named

from . import gangs

HOST = socket.gethostname()
AT_ONCE = "lifeline_client._LATER = 0"


@pytest.fixture
def start():
    """Starts the members of a gang; whatever is left of them is killed in the end."""
    members = []

    def start(count, *, ranks=None, port=None, **options):
        port = port or gangs.free_port()
        begun = [
            gangs.Member(rank, count, port=port, **options)
            for rank in (range(count) if ranks is None else ranks)
        ]
        members.extend(begun)
        return begun

    yield start
    for member in members:
        member.close()


@pytest.fixture
def gang(start):
    """Starts a gang and waits until all are there."""

    def gang(count, **options):
        members = start(count, **options)
        for member in members:
            member.hear("joined")
        return members

    return gang


def gone(rank):
    line = f"process {rank} (host {HOST}) is gone; leaving so that the run can be started again\n"
    return 75, line


@pytest.mark.parametrize("victim", [0, 2])
def test_a_killed_process_ends_all_others_at_once_with_its_name(gang, victim):
    members = gang(4)
    members[victim].process.kill()
    for rank, member in enumerate(members):
        if rank != victim:
            assert member.ended(within=5) == gone(victim)


def test_a_normal_exit_without_a_goodbye_is_a_death_too(gang):
    first, second = gang(2)
    second.tell("exit 0")
    assert first.ended() == gone(1)


@pytest.mark.parametrize("failing", [0, 2])
def test_an_error_ends_all_with_its_code_and_reason(gang, failing):
    members = gang(3)
    members[failing].tell("fail 2 model.layers: unknown key")
    said = f"process {failing} (host {HOST}) ended with code 2: model.layers: unknown key\n"
    for rank, member in enumerate(members):
        assert member.ended(within=5) == (2, "" if rank == failing else said)
    members[failing].hear("reported")


@pytest.mark.parametrize("witness", [0, 1])
def test_an_error_that_is_only_how_a_death_was_noticed_is_not_the_reason(gang, witness):
    """The death reaches process 0 after the report of what it caused."""
    members = gang(3)
    members[witness].tell("fail 1 connection reset by peer")
    members[2].process.kill()
    for member in members[:2]:
        assert member.ended(within=5) == gone(2)


def test_after_goodbyes_they_end_in_any_order_without_an_alarm(gang):
    members = gang(3)
    for member in members:
        member.tell("goodbye")
        member.hear("done")
    for rank in (2, 0, 1):
        members[rank].tell("exit 0")
        assert members[rank].ended() == (0, "")
        assert members[1].process.poll() is not None or members[1].is_running_after(0.5)


def test_who_has_said_goodbye_still_hears_of_a_death(gang):
    first, second, third = gang(3)
    for member in (first, second):
        member.tell("goodbye")
        member.hear("done")
    third.process.kill()
    assert [first.ended(within=5), second.ended(within=5)] == [gone(2), gone(2)]


def test_a_stopped_process_is_no_death_and_holds_nobody_up(gang):
    members = gang(3)
    members[1].process.send_signal(signal.SIGSTOP)
    assert members[0].is_running_after(0.5)
    members[2].process.kill()
    assert members[0].ended(within=5) == gone(2)
    members[1].process.send_signal(signal.SIGCONT)
    assert members[1].ended(within=5) == gone(2)


GREETING = {"jaxllm": 1, "rank": 1, "count": 2, "host": "elsewhere"}


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\xff" * 5000,
        b"[" * 4000 + b"\n",
        b'{"kind": "error", "code": 1, "reason": "no"}\n',
        json.dumps({**GREETING, "jaxllm": 0}).encode() + b"\n",
        json.dumps({**GREETING, "rank": "1"}).encode() + b"\n",
        json.dumps({**GREETING, "rank": 2}).encode() + b"\n",
        json.dumps({**GREETING, "rank": 0}).encode() + b"\n",
        json.dumps({**GREETING, "count": 3}).encode() + b"\n",
        json.dumps(GREETING).encode() + b'\n{"kind": "error", "code": 1, "reason": "no"}\n',
        b"",
    ],
    ids=lambda words: repr(words[:30]),
)
def test_a_foreign_connection_is_dropped_and_changes_nothing(strangers_gang, words):
    port, members = strangers_gang
    stranger = socket.create_connection(("127.0.0.1", port + 1), timeout=10)
    with stranger, suppress(ConnectionError):  # it is dropped before all is read
        stranger.sendall(words)
        with suppress(OSError):
            stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    assert [member.process.poll() for member in members] == [None, None]


@pytest.fixture(scope="module")
def strangers_gang():
    """A gang of two that strangers knock at; in the end it still notices a death."""
    port = gangs.free_port()
    members = [gangs.Member(rank, 2, port=port) for rank in range(2)]
    for member in members:
        member.hear("joined")
    yield port, members
    members[1].process.kill()
    try:
        assert members[0].ended(within=5) == gone(1)
    finally:
        for member in members:
            member.close()


def test_who_is_silent_is_dropped_while_others_come(start):
    port = gangs.free_port()
    (first,) = start(2, ranks=[0], port=port, shorter="lifeline_server._TO_GREET = 0.2")
    with knock(port) as stranger:
        assert stranger.recv(1) == b""
    (second,) = start(2, ranks=[1], port=port)
    first.hear("joined")
    second.hear("joined")


def knock(port):
    """A connection to process 0 as soon as it listens."""
    while True:
        time.sleep(0.02)
        with suppress(ConnectionRefusedError):
            stranger = socket.create_connection(("127.0.0.1", port + 1), timeout=20)
            if stranger.getsockname() != stranger.getpeername():
                return stranger
            stranger.close()  # the kernel had chosen the very port


def test_process_0_may_come_last(start):
    port = gangs.free_port()
    others = start(3, ranks=[1, 2], port=port)
    assert others[0].is_running_after(0.5)
    for member in start(3, ranks=[0], port=port) + others:
        member.hear("joined")


def test_before_all_are_there_one_may_come_again(start):
    port = gangs.free_port()
    first, second = start(3, ranks=[0, 1], port=port)
    knock(port).close()
    assert second.is_running_after(0.5)  # it has greeted meanwhile
    second.process.kill()
    second.process.wait()
    for member in [first, *start(3, ranks=[1, 2], port=port)]:
        member.hear("joined")


def test_missing_processes_are_named_to_all_who_came(start):
    port = gangs.free_port()
    members = start(4, ranks=[0, 2], port=port, timeout=2)
    for member in members:
        code, said = member.ended()
        assert code == 1
        assert said == (
            f"TimeoutError: processes 1, 3 of 4 did not come to process 0 on {HOST}, at "
            f"127.0.0.1:{port + 1} (the port after JAX_COORDINATOR_ADDRESS; "
            "JAXLLM_LIFELINE_ADDRESS can set another), within 2 s (JAXLLM_START_TIMEOUT); "
            "start all, each with the address of process 0\n"
        )


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("127.0.0.1:{port}", "Connection refused"),
        ("nowhere.invalid:{port}", "the name cannot be resolved"),
    ],
)
def test_a_wrong_address_is_named_with_its_variable_and_who_could_not_reach_it(
    start, address, problem
):
    given = address.format(port=gangs.free_port())
    (member,) = start(2, ranks=[1], timeout=1, shorter=AT_ONCE, JAXLLM_LIFELINE_ADDRESS=given)
    code, said = member.ended(within=20)
    assert code == 1
    assert said.splitlines()[-1].startswith(
        f"ConnectionError: process 1 on {HOST} could not reach process 0 at {given} "
        f"(JAXLLM_LIFELINE_ADDRESS) within 1 s (JAXLLM_START_TIMEOUT): {problem}"
    )
    assert "is JAX_COORDINATOR_ADDRESS right" in said


def test_what_answers_but_is_no_jaxllm_is_no_process_0(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        given = f"127.0.0.1:{other.getsockname()[1]}"
        (member,) = start(2, ranks=[1], timeout=1, shorter=AT_ONCE, JAXLLM_LIFELINE_ADDRESS=given)
        taken, _ = other.accept()
        with taken:
            taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        code, said = member.ended(within=20)
    assert code == 1
    assert given in said


def test_a_taken_port_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        given = f"127.0.0.1:{other.getsockname()[1]}"
        (first,) = start(2, ranks=[0], JAXLLM_LIFELINE_ADDRESS=given)
        code, said = first.ended()
    assert code == 1
    assert f"process 0 cannot listen at {given} (JAXLLM_LIFELINE_ADDRESS): Address already" in said


def test_another_count_and_a_number_twice_are_refused(start):
    port = gangs.free_port()
    (first,) = start(3, ranks=[0], port=port)
    (wrong,) = start(4, ranks=[1], port=port)
    code, said = wrong.ended()
    assert code == 1
    assert "does not take process 1 of 4: process 0 counts 3 processes" in said
    (one,) = start(3, ranks=[1], port=port)
    assert one.is_running_after(0.5)
    (double,) = start(3, ranks=[1], port=port, timeout=1, shorter=AT_ONCE)
    code, said = double.ended(within=20)
    assert code == 1
    assert f"process 1 is there already, on {HOST}" in said
    (last,) = start(3, ranks=[2], port=port)
    for member in (first, one, last):
        member.hear("joined")


def test_many_missing_ones_are_not_all_listed():
    assert named([7]) == "process 7"
    assert named(range(1, 100)).endswith("15, 16 and 83 more")
