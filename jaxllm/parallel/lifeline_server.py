"""Process 0's end of the lifelines: gathers the processes of a run, and says when one is gone."""

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.parallel.gang import START_TIMEOUT, Gang
from jaxllm.parallel.last_words import end_from_thread
from jaxllm.parallel.messages import Connection, ForeignMessage, Message, shortened

PROTOCOL = 1
VERDICT_SECONDS = 3.0
"""How long a process that failed waits to hear whether another one was the cause."""

_TICK = 0.2  # seconds between two looks at what is due
_TO_GREET = 5.0  # seconds that a new connection has to say who it is
_TO_SEND = 1.0  # seconds; a message is small, and fits into the kernel's buffer
_TO_LEAVE = 1.0  # seconds that the others have to end before process 0 does
# An error is often the first sign of another process's death: that one is looked for meanwhile.
_TO_BLAME = 0.3


@dataclass
class _Member:
    connection: Connection
    host: str
    has_left: bool = False


@dataclass(frozen=True)
class Verdict:
    """Why the run ends, with what code, and by which process."""

    rank: int
    code: int
    line: str


class Server:
    """A thread that holds one connection to each other process until the run ends.

    A connection that ends without a goodbye means that its process is dead, for the kernel closes
    the sockets of what it kills. Then all others are told, and end. A connection that does not
    greet as a process of this run is dropped, and changes nothing.
    """

    def __init__(
        self,
        listener: socket.socket,
        gang: Gang,
        *,
        host: str,
        end: Callable[[int, str], None] = end_from_thread,
    ) -> None:
        """listener: bound and listening. host: the name of this host. end: how the process ends."""
        self._listener, self._gang, self._host, self._end = listener, gang, host, end
        self._members: dict[int, _Member] = {}
        self._strangers: dict[Connection, float] = {}
        self._lock = threading.RLock()
        self._complete, self._judged = threading.Event(), threading.Event()
        self._error: tuple[float, Verdict] | None = None
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        threading.Thread(target=self._serve, daemon=True, name="lifelines").start()

    def missing(self) -> list[int]:
        """The processes that have not greeted yet."""
        with self._lock:
            return [rank for rank in range(1, self._gang.count) if rank not in self._members]

    def wait(self, seconds: float) -> bool:
        """Waits for all others; whether all have come."""
        return self._complete.wait(seconds)

    def give_up(self) -> TimeoutError:
        """Tells those that came which ones did not; the error for process 0 itself."""
        gang = self._gang
        line = (
            f"{named(self.missing())} of {gang.count} did not come to process 0 on {self._host}, "
            f"at {gang.lifeline}, within {gang.start_timeout:g} s ({START_TIMEOUT}); start all, "
            "each with the address of process 0"
        )
        self._tell_all(kind="missing", line=line)
        return TimeoutError(line)

    def goodbye(self) -> None:
        """Process 0 is done, which is no reason for others to end."""
        self._tell_all(kind="goodbye")

    def report(self, code: int, reason: str) -> None:
        """Process 0 failed. Returns once the others were told, unless one of them was the cause:
        then the process ends here."""
        self._blame(0, self._host, code, reason)
        self._judged.wait(VERDICT_SECONDS)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select(_TICK):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            now = time.monotonic()
            for stranger in [one for one, until in self._strangers.items() if until < now]:
                self._drop(stranger)
            if self._error is not None and self._error[0] <= now:
                self._end_all(self._error[1])
                return

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # gone before it was taken, or no descriptor is free for it
            time.sleep(_TICK)
            return
        sock.settimeout(_TO_SEND)
        try:
            connection = Connection(sock)
        except OSError:
            sock.close()
            return
        self._selector.register(sock, selectors.EVENT_READ, connection)
        self._strangers[connection] = time.monotonic() + _TO_GREET

    def _read(self, connection: Connection) -> None:
        try:
            messages = connection.receive()
        except (OSError, ForeignMessage):
            messages = None
        if messages is None:
            self._lose(connection)
            return
        for message in messages:
            if connection in self._strangers:
                self._greet(connection, message)
            elif (rank := self._rank(connection)) is not None:
                self._take(rank, message)

    def _greet(self, connection: Connection, message: Message) -> None:
        """Makes a stranger a member, or drops it; one of us is told why."""
        rank, count, host = (message.get(key) for key in ("rank", "count", "host"))
        is_known = message.get("jaxllm") == PROTOCOL
        if not is_known or not isinstance(rank, int) or not isinstance(host, str):
            self._drop(connection)
            return
        refusal, is_final = None, False
        with self._lock:
            if count != self._gang.count:
                refusal, is_final = f"process 0 counts {self._gang.count} processes", True
            elif not 0 < rank < count:
                refusal, is_final = f"no other process can be process {rank}", True
            elif rank in self._members:
                refusal = f"process {rank} is there already, on {self._members[rank].host}"
            elif self._complete.is_set():
                refusal = "the run has begun"
            if refusal is not None:
                with suppress(OSError):
                    connection.send(kind="refused", reason=refusal, is_final=is_final)
                self._drop(connection)
                return
            del self._strangers[connection]
            self._members[rank] = _Member(connection, shortened(host))
            self._send(connection, kind="greeted", host=self._host)
            if not self.missing():
                self._tell_all(kind="welcome")
                self._complete.set()

    def _take(self, rank: int, message: Message) -> None:
        """What a member says."""
        member = self._members[rank]
        if message.get("kind") == "goodbye":
            member.has_left = True
        elif message.get("kind") == "error":
            code, reason = message.get("code"), message.get("reason")
            self._blame(rank, member.host, code if type(code) is int else 1, str(reason))

    def _lose(self, connection: Connection) -> None:
        """What the end of a connection means: death, but for strangers and those that left."""
        rank = self._rank(connection)
        if rank is None:
            self._drop(connection)
            return
        self._close(connection)
        with self._lock:
            member = self._members.pop(rank)  # before all are there another may come in its place
            is_first = self._error is None or self._error[0] > 0
            if self._complete.is_set() and not member.has_left and is_first:
                verdict = Verdict(rank, EXIT_INTERRUPTED, gone(rank, member.host))
                self._error = (0.0, verdict)

    def _blame(self, rank: int, host: str, code: int, reason: str) -> None:
        line = f"process {rank} (host {host}) ended with code {code}: {shortened(reason)}"
        with self._lock:
            if self._error is None:
                self._error = (time.monotonic() + _TO_BLAME, Verdict(rank, code, line))

    def _end_all(self, verdict: Verdict) -> None:
        """Tells all, lets them end first, so that all have read it, and ends process 0."""
        self._tell_all(kind="end", rank=verdict.rank, code=verdict.code, line=verdict.line)
        until = time.monotonic() + _TO_LEAVE
        while self._members and (seconds := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(seconds):
                if key.data is None:
                    self._selector.unregister(self._listener)
                    self._listener.close()
                    continue
                with suppress(OSError, ForeignMessage):
                    if key.data.receive() is not None:
                        continue
                self._lose(key.data)
        if verdict.rank == 0:
            self._judged.set()
        else:
            self._end(verdict.code, verdict.line)

    def _tell_all(self, **message: object) -> None:
        with self._lock:
            for member in self._members.values():
                self._send(member.connection, **message)

    def _send(self, connection: Connection, **message: object) -> None:
        # What cannot be told anything is noticed where it is read.
        with suppress(OSError):
            connection.send(**message)

    def _rank(self, connection: Connection) -> int | None:
        """Whose connection it is; None for a stranger's."""
        members = self._members.items()
        return next((rank for rank, one in members if one.connection is connection), None)

    def _drop(self, stranger: Connection) -> None:
        del self._strangers[stranger]
        self._close(stranger)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.close()


def gone(rank: int, host: str) -> str:
    """What is said of a process that is dead."""
    return f"process {rank} (host {host}) is gone; leaving so that the run can be started again"


def named(ranks: Iterable[int]) -> str:
    """`process 2`, `processes 2, 3`, or the first sixteen of many."""
    ranks = list(ranks)
    shown = ", ".join(map(str, ranks[:16]))
    more = f" and {len(ranks) - 16} more" if len(ranks) > 16 else ""
    return f"process{'es' if len(ranks) != 1 else ''} {shown}{more}"
