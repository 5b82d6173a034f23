"""JAX's notifier, by which all processes of a run stop at the same step, without its handler.

`jax.distributed.initialize` gives SIGTERM to a handler in C++ that only sets a flag, and Python
does not hear of it. Here that handler is taken away again, and kept to be called when a loop is
there that can stop.
"""

import ctypes
import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_DEFAULT, _IGNORE = None, 1  # in place of an address

_notify: Callable[[int], None] | None = None
_asked = itertools.count(1)


@contextmanager
def handler_kept() -> Iterator[None]:
    """Around `jax.distributed.initialize`: whoever has SIGTERM before has it after.

    A SIGTERM in between is not lost: JAX remembers it, and the loop stops at its first step.
    """
    before = _c_handler()
    try:
        yield
    finally:
        found, ours = _c_handler(), signal.getsignal(signal.SIGTERM)
        # None: nor did Python install what was there before.
        if found != before and ours is not None:
            _keep(found)
            signal.signal(signal.SIGTERM, ours)


def take_sigterm(handler: Callable[[int, FrameType | None], None]) -> Any:
    """`signal.signal`, which keeps JAX's handler if it has SIGTERM: a caller has started JAX."""
    found = _c_handler()
    previous = signal.signal(signal.SIGTERM, handler)
    if found != _c_handler():  # all handlers in Python have the same one in C
        _keep(found)
    return previous


def notify() -> None:
    """Tell all processes, within a second, that this one has to stop; from any thread."""
    if _notify is not None:
        _notify(signal.SIGTERM)


def is_reached() -> bool:
    """Whether this is where all stop; asked at the same places, as after a step, by all."""
    from jax.experimental import multihost_utils

    # Counted here: JAX agrees on one more than the largest number it was given, and the numbers of
    # steps get smaller where a run goes back.
    return bool(multihost_utils.reached_preemption_sync_point(next(_asked)))


def _keep(handler: int | None) -> None:
    global _notify
    if _notify is None and handler not in (_DEFAULT, _IGNORE):
        _notify = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)


def _c_handler() -> int | None:
    """The address of the C function that SIGTERM calls."""
    get = ctypes.pythonapi.PyOS_getsig
    get.restype = ctypes.c_void_p
    return get(int(signal.SIGTERM))
