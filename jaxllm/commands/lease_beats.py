"""A lease where there are no locks: its file, or object, shows a sign of life, again and again.

Whoever has the lease puts a new number into the file every 10 seconds. Whoever wants it takes it
once the file stayed the same for 60 seconds, by a clock of its own that only counts seconds. No
times of day are compared, neither of hosts nor of files: a clock that jumps changes nothing.

Two rules make it safe. The file is replaced as a whole, so the last one who writes has it; and
each looks whether the file is still its own, a while after taking it and at every sign of life.
Of two who took it at the same moment, one finds the other's name and is refused. A run that was
asleep for so long that another took its lease ends at once, before it writes anything more. An
object in a bucket is replaced only by who saw it last, so of two who take it only one writes.

A run that was killed so leaves its folder for 60 seconds, less if this machine can see that the
process is gone.
"""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from jaxllm.commands.lease import Owner
from jaxllm.exit_codes import EXIT_FAILED

BEAT = 10.0  # seconds between two signs of life
VALID = 60.0  # seconds without one until the lease is free
SLOWEST = 10.0  # seconds that a sign of life may take, to look and to write
SETTLE = 1.0  # seconds in which another who took it at the same moment has written too


class Place(Protocol):
    """Where the sign of life is. `StoredObject` is one too."""

    def read(self) -> bytes: ...

    def write(self, content: bytes) -> bool: ...


class FilePlace:
    """A file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> bytes:
        """The content; b"" without a file."""
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def write(self, content: bytes) -> bool:
        """Replace it, whoever wrote it last."""
        self._partial.write_bytes(content)
        os.replace(self._partial, self._path)
        return True


class Beats:
    """A lease by signs of life. One that is lost calls `on_loss`, which ends the process."""

    def __init__(
        self,
        place: Place,
        *,
        settle: float = SETTLE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_loss: Callable[[str], None] | None = None,
    ) -> None:
        """settle: 0 for a place where of two who write at the same moment only one does."""
        self._place, self._settle = place, settle
        self._clock, self._sleep = clock, sleep
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
        content = self._place.read()
        if content and not self._is_stale(content):
            return False
        self._seen, self._changes = None, 0
        self._mine, self._number = Owner.here(), 0
        self._write(self._mine.write(beat=0))
        self._sleep(self._settle)
        if not self._is_mine():
            self._mine = None
            return False
        return True

    def owner(self) -> Owner | None:
        """Who has the lease, if the file says."""
        return Owner.read(self._place.read())

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
            self._number += 1
            if not (self._is_mine() and self._write(self._mine.write(beat=self._number))):
                self._on_loss(
                    f"the lease {self._place} was lost to {self.owner() or 'another run'}"
                )
        except OSError as error:
            if self._clock() - self._written_at >= VALID - BEAT - SLOWEST:
                self._on_loss(f"the lease {self._place} could not be kept: {error}")

    def release(self) -> None:
        """Let the next one have it at once."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):  # then it is free once there was no sign of life for long enough
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

    def _write(self, content: bytes) -> bool:
        """Whether the content is there; not where another took the lease since it was looked at."""
        began = self._clock()
        # A write that was done but whose answer was lost is refused when it is tried again.
        is_there = self._place.write(content) or self._is_mine()
        if is_there:
            self._written_at = began
        return is_there


def _end_process(words: str) -> None:
    """Ends this process before it writes into a folder that is not its own any more."""
    print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)
