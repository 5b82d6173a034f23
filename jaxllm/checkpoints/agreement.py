"""What several processes agree on around a checkpoint. Everything here passes with one process."""

import errno
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

_LONGEST = 2000  # bytes of a text that is exchanged

_attempts = itertools.count(1)


def gathered(text: str) -> list[str]:
    """The text of every process, in the order of their ranks. All call it, on the main thread."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    content = text.encode()[:_LONGEST]
    row = np.zeros(_LONGEST, np.uint8)
    row[: len(content)] = np.frombuffer(content, np.uint8)
    with jax.transfer_guard("allow"):  # the training loop forbids what is not explicit
        rows = multihost_utils.process_allgather(row)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(rows)]


def together[T](act: Callable[[], T]) -> T:
    """What `act` gives; the same OSError on every process where it raises one on any.

    All call it, on the main thread. One that went on alone would wait for ever for the others.
    """
    result, refusal = None, None
    try:
        result = act()
    except OSError as error:
        refusal = error
    own = "" if refusal is None else f"{refusal.errno or errno.EIO} {_words(refusal)}"
    told = gathered(own)
    rank = next((rank for rank, text in enumerate(told) if text), None)
    if rank is None:
        return result  # type: ignore[return-value]  # nothing was refused here either
    if refusal is not None and rank == jax.process_index():
        raise refusal
    code, _, words = told[rank].partition(" ")
    raise OSError(int(code), f"process {rank} says: {words}") from refusal


def _words(error: OSError) -> str:
    where = "" if error.filename is None else f" ({error.filename})"
    return f"{error.strerror or error}{where}"


class AnotherFailed(Exception):
    """Another process could not do its part of a save; it says why."""


class SaveBarriers:
    """Where the processes of a save wait for each other, without waiting for one that failed.

    Orbax meets at the start of a save (two barriers), when every process has written, when the
    first has committed, and at the end (two). A process whose writing or committing failed comes
    to the end straight away, while the others wait for it at one of the middle barriers until
    their patience ends, after twenty minutes. Here it leaves word that it failed and joins them
    there, and they fail too.
    """

    _MIDDLE = ("async_write_complete", "async_commit_complete")

    def __init__(self, on_written: Callable[[], None]):
        """on_written: called on each process, in the background, when it has written its part."""
        self._on_written = on_written
        self.begin()

    def begin(self) -> None:
        """Before each attempt to save, on every process."""
        self.attempt = next(_attempts)  # the same on every process
        self._name = f"jaxllm/checkpoint/{self.attempt}"
        self._num_outer = 0  # barriers of the start and the end that were passed
        self._num_middle = 0
        self._has_heard = False

    def wait(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's `barrier_sync_fn`. AnotherFailed if a process failed before this barrier."""
        if jax.process_count() == 1:
            return
        client = _client()
        if not any(name in key for name in self._MIDDLE):
            if self._num_outer == 2 and self._num_middle < 2 and not self._has_heard:
                rank = jax.process_index()
                client.key_value_set(f"{self._name}/failed/{rank}", str(rank))
                client.wait_at_barrier(f"{self._name}/middle/{self._num_middle}", timeout_ms)
            self._num_outer += 1
            client.wait_at_barrier(f"{self._name}/outer/{self._num_outer}", timeout_ms)
            return
        if self._num_middle == 0:
            self._on_written()
        client.wait_at_barrier(f"{self._name}/middle/{self._num_middle}", timeout_ms)
        self._num_middle += 1
        failed = client.key_value_dir_get(f"{self._name}/failed")
        if failed:
            self._has_heard = True
            raise AnotherFailed(f"process {failed[0][1]} failed in a save")


def _client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
