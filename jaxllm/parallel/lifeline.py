"""How the processes of one run find each other, and notice at once when one of them dies.

Every process keeps a TCP connection to process 0. Its server gathers all before JAX joins them, so
that an error can name who is missing, and it tells all when one is gone or has failed. If process
0 dies the others see it by themselves.
"""

import socket

from jaxllm.parallel.gang import Address, Gang
from jaxllm.parallel.last_words import say
from jaxllm.parallel.lifeline_client import Client
from jaxllm.parallel.lifeline_server import Server, named

_BEFORE_A_WORD = 10.0  # seconds of waiting that need no explanation


_lifeline: Server | Client | None = None


def begin(gang: Gang) -> None:
    """Wait until all processes are there, and watch over them from now on.

    OSError where the port is taken or process 0 cannot be reached; TimeoutError that names who is
    missing; ValueError where the processes do not agree on how many they are.
    """
    global _lifeline
    assert _lifeline is None
    _lifeline = _serve(gang) if gang.rank == 0 else Client(gang)


def goodbye() -> None:
    """This process is done, which is no reason for others to end."""
    if _lifeline is not None:
        _lifeline.goodbye()


def report(code: int, reason: str) -> None:
    """This process failed: all others say so and end with the same code.

    Returns once the caller can end, and at once with one process. Where another process's death
    was the cause, this one ends here, as all do then.
    """
    if _lifeline is not None:
        _lifeline.report(code, reason)


def _serve(gang: Gang) -> Server:
    listener = _bound(gang.lifeline, backlog=gang.count + 16)
    server = Server(listener, gang, host=socket.gethostname())
    until_word = min(_BEFORE_A_WORD, gang.start_timeout)
    if server.wait(until_word):
        return server
    if gang.start_timeout > until_word:
        say(f"process 0 waits at {gang.lifeline} for {named(server.missing())} of {gang.count}")
        if server.wait(gang.start_timeout - until_word):
            return server
    raise server.give_up()


def check_free(address: Address) -> None:
    """OSError, in words, if something on this host listens at the port."""
    _bound(address, backlog=1).close()


def _bound(address: Address, *, backlog: int) -> socket.socket:
    """Listens on loopback only where that is the address, so that no other machine can reach it."""
    try:
        if address.is_loopback:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            family, _, _, _, where = found[0]
            return socket.create_server(where[:2], family=family, backlog=backlog)
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", address.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog
            )
        return socket.create_server(("", address.port), backlog=backlog)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen at {address}: {error.strerror}; choose a port that is free, "
            "and the same one for every process"
        ) from error
