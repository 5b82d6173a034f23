"""Spawned worker processes that die with their parent and leave no orphan behind."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

MAX_WORKERS = 64


def num_cores() -> int:
    """Cores that this process may use; macOS tells only how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """One worker for each core that this process may use."""
    return min(MAX_WORKERS, num_cores())


class Workers:
    """A pool for functions of one argument; with one worker, the calling process itself works.

    A script that starts more than one needs the `if __name__ == "__main__"` guard, as with
    any spawned process. Workers end when the parent does, even when it is killed.
    """

    def __init__(self, count: int) -> None:
        assert count >= 1
        self._count = count
        self._processes: dict[Connection, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection, process in self._processes.items():
            connection.close()
            process.terminate()
        for process in self._processes.values():
            process.join()
        self._processes = {}

    def run[Task, Result](
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[int, Result]]:
        """Yields (index of the task, result) as they are done, in any order.

        A ValueError or OSError of a task is raised here; anything else ends the worker, which
        is a RuntimeError here.
        """
        if self._count == 1 or len(tasks) == 1:
            yield from ((index, function(task)) for index, task in enumerate(tasks))
            return
        self._start(min(self._count, len(tasks)))
        waiting = iter(enumerate(tasks))
        idle = list(self._processes)
        running: dict[Connection, int] = {}
        while True:
            for connection in idle:
                index, task = next(waiting, (None, None))
                if index is not None:
                    connection.send((function, task))
                    running[connection] = index
            if not running:
                return
            idle = [ready for ready in wait(list(running)) if isinstance(ready, Connection)]
            for connection in idle:
                yield running.pop(connection), self._receive(connection)

    def _start(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        while len(self._processes) < count:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def _receive(self, connection: Connection) -> Any:
        try:
            result, error = connection.recv()
        except EOFError as end:
            process = self._processes.pop(connection)
            process.join()
            raise RuntimeError(
                f"a worker process died with exit code {process.exitcode} (-9: killed, often for "
                f"want of memory); what is finished is kept, so run again, with fewer workers"
            ) from end
        if error is not None:
            raise error
        return result


def _serve(connection: Connection) -> None:
    """A worker's life: tasks until the parent's end of the pipe closes."""
    # Ctrl-C reaches the whole process group; the parent alone decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, task = connection.recv()
        except EOFError:
            return
        reply: tuple[Any, Exception | None]
        try:
            reply = (function(task), None)
        except (ValueError, OSError) as error:
            reply = (None, error)
        try:
            connection.send(reply)
        except BrokenPipeError:
            sys.exit(1)
