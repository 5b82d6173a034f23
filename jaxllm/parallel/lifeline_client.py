"""The lifeline of a process that is not process 0: reaches it, greets, and listens to it."""

import socket
import threading
import time

from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.parallel.gang import START_TIMEOUT, Gang
from jaxllm.parallel.last_words import end_from_thread, say
from jaxllm.parallel.lifeline_server import PROTOCOL, VERDICT_SECONDS, gone
from jaxllm.parallel.messages import Connection, ForeignMessage, Message, shortened

_BEFORE_A_WORD = 10.0  # seconds of waiting that need no explanation
_TO_ANSWER = 5.0  # seconds
_PAUSE = 0.2  # seconds between two tries to reach process 0
_LATER = 5.0  # seconds that the others wait longer than process 0, who knows who is missing


class Client:
    """A connection to process 0, and the thread that listens to it until the process ends."""

    def __init__(self, gang: Gang) -> None:
        """Waits until all processes are there; errors as `lifeline.begin`."""
        self._gang = gang
        self._judged = threading.Event()
        self._has_server_left = False
        self._connection, self._server_host = _join(gang)
        threading.Thread(target=self._listen, daemon=True, name="lifeline").start()

    def goodbye(self) -> None:
        """This process is done, which is no reason for others to end."""
        self._tell(kind="goodbye")

    def report(self, code: int, reason: str) -> None:
        """This process failed. Returns once the others were told, unless one of them was the
        cause: then the process ends here."""
        self._tell(kind="error", code=code, reason=shortened(reason))
        self._judged.wait(VERDICT_SECONDS)

    def _listen(self) -> None:
        while (message := self._next()) is not None:
            if message.get("kind") == "goodbye":
                self._has_server_left = True
            elif message.get("kind") == "end":
                if message["rank"] != self._gang.rank:
                    end_from_thread(message["code"], message["line"])
                self._has_server_left = True
                self._judged.set()
        self._judged.set()
        if not self._has_server_left:
            end_from_thread(EXIT_INTERRUPTED, gone(0, self._server_host))

    def _next(self) -> Message | None:
        try:
            return self._connection.next(seconds=None)
        except (OSError, ForeignMessage):
            return None

    def _tell(self, **message: object) -> None:
        try:
            self._connection.send(**message)
        except OSError:
            # Process 0 is gone; if it has not said goodbye, the listening thread ends this one.
            self._judged.wait(VERDICT_SECONDS)


class _Refusal(Exception):
    """Process 0 does not take this process for now."""


def _join(gang: Gang) -> tuple[Connection, str]:
    """Tries until all are there; the connection and the host of process 0."""
    began, has_spoken, problem = time.monotonic(), False, "no answer"
    deadline = began + gang.start_timeout + _LATER
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection, host = _greet(gang, seconds=min(_TO_ANSWER, left))
        except (OSError, ForeignMessage, _Refusal) as error:
            problem = _in_words(error)
        else:
            if _is_welcome(connection, seconds=left):
                return connection, host
            problem = f"process 0 on {host} has closed the connection"
        if not has_spoken and time.monotonic() - began > min(_BEFORE_A_WORD, gang.start_timeout):
            has_spoken = True
            say(f"process {gang.rank} waits for process 0 at {gang.lifeline}: {problem}")
        time.sleep(_PAUSE)
    raise ConnectionError(
        f"process {gang.rank} on {socket.gethostname()} could not reach process 0 at "
        f"{gang.lifeline} within {gang.start_timeout:g} s ({START_TIMEOUT}): {problem}; "
        f"is {gang.coordinator.source} right, and does process 0 run there?"
    )


def _greet(gang: Gang, *, seconds: float) -> tuple[Connection, str]:
    """One try to be one of the run. ValueError if it can never be."""
    sock = socket.create_connection((gang.lifeline.host, gang.lifeline.port), timeout=seconds)
    connection = Connection(sock)
    try:
        if sock.getsockname() == sock.getpeername():
            # On one machine the kernel may choose the very port that nothing listens at yet.
            raise ConnectionRefusedError("nothing listens there")
        us = {"rank": gang.rank, "count": gang.count, "host": socket.gethostname()}
        connection.send(jaxllm=PROTOCOL, **us)
        answer = connection.next(seconds=seconds) or {}
        if answer.get("kind") == "greeted":
            return connection, str(answer.get("host"))
        reason = answer.get("reason", "it is no process of jaxllm, or of another version")
        if answer.get("is_final"):
            raise ValueError(
                f"process 0 at {gang.lifeline} does not take process {gang.rank} of {gang.count}: "
                f"{reason}; all processes need the same count, and each its own number"
            )
        raise _Refusal(f"what answers there does not take it: {reason}")
    except BaseException:
        connection.close()
        raise


def _is_welcome(connection: Connection, *, seconds: float) -> bool:
    """Whether all came. TimeoutError in process 0's words if some did not in time."""
    try:
        message = connection.next(seconds=seconds)
    except (OSError, ForeignMessage):
        message = None
    if message is not None and message.get("kind") == "missing":
        raise TimeoutError(message["line"])
    if message is None:
        connection.close()
    return message is not None


def _in_words(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name cannot be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer"
    return getattr(error, "strerror", None) or str(error)
