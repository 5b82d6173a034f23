"""JSON lines over TCP between the processes of a run, and the options that notice a dead host."""

import json
import socket
import time
from typing import Any

Message = dict[str, Any]

MAX_BYTES = 4096
"""Of a message; who sends longer ones is not one of us."""

# A host that vanished without a word is given up after 10 + 3 * 5 seconds.
_IDLE, _INTERVAL, _PROBES = 10, 5, 3


class ForeignMessage(Exception):
    """What came is no message of ours."""


class Connection:
    """One end of a TCP connection that carries messages."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._received = b""
        self._waiting: list[Message] = []
        _notice_dead_host(sock)

    def send(self, **message: Any) -> None:
        """OSError where the other end is gone, or does not take what it was sent before."""
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """The messages that have come, at least after one read; None once the other end is closed.

        ForeignMessage for what is too long or no JSON object; OSError of the socket, also where
        it has a timeout.
        """
        piece = self.socket.recv(MAX_BYTES)
        if not piece:
            return None
        *lines, self._received = (self._received + piece).split(b"\n")
        if len(self._received) > MAX_BYTES:
            raise ForeignMessage(f"a line of more than {MAX_BYTES} bytes")
        return [_parse(line) for line in lines]

    def next(self, *, seconds: float | None) -> Message | None:
        """The next message, waited for; otherwise as `receive`, and TimeoutError past `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._waiting:
            self.socket.settimeout(until and max(until - time.monotonic(), 0.001))
            messages = self.receive()
            if messages is None:
                return None
            self._waiting += messages
        return self._waiting.pop(0)

    def close(self) -> None:
        """Close this end; a second call does nothing."""
        self.socket.close()


def _parse(line: bytes) -> Message:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ForeignMessage(f"{line[:40]!r} is no message of jaxllm")
    return message


def shortened(text: str) -> str:
    """One line that fits into a message, whatever its characters."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:299] + "…"


def _notice_dead_host(sock: socket.socket) -> None:
    """Let the kernel probe an idle connection, and give up one that answers nothing."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {
        "TCP_KEEPIDLE": _IDLE,
        "TCP_KEEPALIVE": _IDLE,  # the same on macOS
        "TCP_KEEPINTVL": _INTERVAL,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": (_IDLE + _PROBES * _INTERVAL) * 1000,  # for what was sent
        "TCP_NODELAY": 1,
    }
    for name, value in wanted.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
