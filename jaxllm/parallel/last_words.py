"""How a process ends at once, whatever its threads do: with a line that says why."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

_PATIENCE = 1.0  # seconds

_ending = threading.Lock()
_chosen: list[int] = []
_listeners: list[Callable[[int, str], None]] = []


def before_end(listener: Callable[[int, str], None]) -> None:
    """From now on `end` tells `listener` its code and reason, once it has spoken.

    The listener must take locks with a limit only: a signal handler may call it.
    """
    _listeners.append(listener)


def forget(listener: Callable[[int, str], None]) -> None:
    """Undo `before_end`; nothing if that was done."""
    with suppress(ValueError):
        _listeners.remove(listener)


def end(code: int, line: str, *, reason: str | None = None) -> None:
    """Kill the workers, say `line` on stderr and end the process. Of several calls one speaks.

    reason: for those that listen, if the line is not that.

    For a signal handler and a thread beside it, or by way of `end_from_thread`: a call can wait for
    ever for what an interrupted one holds, and then the next call ends the process a second later.
    """
    if not _ending.acquire(blocking=False):
        time.sleep(_PATIENCE)
        os._exit(_chosen[0] if _chosen else code)
    _chosen.append(code)
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
        with suppress(OSError, RuntimeError, ValueError):  # a closed pipe, a write under way
            sys.stdout.write("\x1b[?25h" if sys.stdout.isatty() else "")  # a bar hides the cursor
            sys.stdout.flush()
        with suppress(OSError, RuntimeError, ValueError):
            say(line)
        for listener in tuple(_listeners):  # last, for a file system may hold them up
            listener(code, reason or line)
    finally:
        os._exit(code)


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def end_from_thread(code: int, line: str) -> None:
    """`end`, but within two seconds even where the main thread holds what it needs."""
    end_within(2 * _PATIENCE, code)
    end(code, line)


def end_within(seconds: float, code: int) -> None:
    """From now on the process has this long for its last words; then it ends without them."""

    def wait() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=wait, daemon=True, name="last words").start()
