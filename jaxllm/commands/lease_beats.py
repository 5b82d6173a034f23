"""A lease for file systems without locks: its file shows a sign of life, again and again.

Whoever has the lease puts a new number into the file every 10 seconds. Whoever wants it takes it
once the file stayed the same for 60 seconds, by a clock of its own that only counts seconds. No
times of day are compared, neither of hosts nor of files: a clock that jumps changes nothing.

Two rules make it safe. The file is replaced as a whole, so the last one who writes has it; and
each looks whether the file is still its own, a while after taking it and at every sign of life.
Of two who took it at the same moment, one finds the other's name and is refused. A run that was
asleep for so long that another took its lease ends at once, before it writes anything more.

A run that was killed so leaves its folder for 60 seconds, less if this machine can see that the
process is gone.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jaxllm.commands.lease import Owner, read_owner
from jaxllm.exit_codes import EXIT_FAILED

BEAT = 10.0  # seconds between two signs of life
VALID = 60.0  # seconds without one until the lease is free
SETTLE = 1.0  # seconds in which another who took it at the same moment has written too


class Beats:
    """A lease by signs of life. One that is lost calls `on_loss`, which ends the process."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_loss: Callable[[str], None] | None = None,
    ) -> None:
        self._path, self._clock, self._sleep = path, clock, sleep
        self._on_loss = on_loss or _end_process
        self._seen: bytes | None = None
        self._seen_at, self._changes = 0.0, 0
        self._mine: Owner | None = None
        self._number, self._written_at = 0, 0.0
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def is_surely_held(self, waited: float) -> bool:
        """Whether another one lived for a whole beat since this one began to look, however long
        that took."""
        return self._changes >= 2

    def try_to_take(self) -> bool:
        """Look at the file once; take the lease if it is nobody's or its owner shows no life."""
        content = self._read()
        if content and not self._is_stale(content):
            return False
        self._seen, self._changes = None, 0
        self._mine, self._number = Owner.here(), 0
        self._write(self._mine.write(beat=0))
        self._sleep(SETTLE)
        if not self._is_mine():
            self._mine = None
            return False
        return True

    def owner(self) -> Owner | None:
        """Who has the lease, if the file says."""
        return read_owner(self._path)

    def start(self) -> None:
        """Show signs of life from now on, in a thread."""
        self._thread = threading.Thread(target=self._beat_on, daemon=True, name="lease")
        self._thread.start()

    def beat(self) -> None:
        """Show one sign of life; `on_loss` if another has the lease, or may have by now.

        A file system that refuses now and then is tried again at the next beat.
        """
        assert self._mine is not None
        try:
            if not self._is_mine():
                self._on_loss(f"the lease {self._path} was lost to {self.owner() or 'another run'}")
                return
            self._number += 1
            self._write(self._mine.write(beat=self._number))
        except OSError as error:
            if self._clock() - self._written_at >= VALID - BEAT:
                self._on_loss(f"the lease {self._path} could not be kept: {error}")

    def release(self) -> None:
        """Let the next one have it at once."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_mine():
            self._write(b"")

    def _is_stale(self, content: bytes) -> bool:
        """Whether the owner whose sign of life this is has shown none for too long, or is dead."""
        now = self._clock()
        if content != self._seen:
            self._changes += self._seen is not None
            self._seen, self._seen_at = content, now
        owner = Owner.read(content)
        return now - self._seen_at >= VALID or (owner is not None and owner.is_dead)

    def _is_mine(self) -> bool:
        owner = self.owner()
        return owner is not None and self._mine is not None and owner.key == self._mine.key

    def _beat_on(self) -> None:
        while not self._is_over.wait(BEAT):
            self.beat()

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def _write(self, content: bytes) -> None:
        assert self._mine is not None
        partial = self._path.with_name(f"{self._path.name}.{self._mine.key}")
        partial.write_bytes(content)
        os.replace(partial, self._path)
        self._written_at = self._clock()


def _end_process(words: str) -> None:
    """Ends this process before it writes into a folder that is not its own any more."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)
