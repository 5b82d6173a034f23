"""The lease of a run folder: two runs never write into the same one.

`.lease` in the run folder is locked with flock while a run has it, and says whose it is. The
kernel frees a lock when the process ends in whatever way, so a crash leaves nothing stuck. Where
the file system has no locks, and in a bucket, `lease_beats` does it by a sign of life instead.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import time
import uuid
import weakref
from pathlib import Path
from typing import Any, NamedTuple, Protocol

LEASE_FILE = ".lease"

_NO_LOCKS = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)
_TICK = 0.1  # seconds between two tries
_TICK_THERE = 1.0  # the same in a bucket, where each is a request

# Seconds that a lock of another machine is waited for. The server of a network file system keeps
# the lock of a host that died until that host's own lease ends, after 90 seconds or more.
ELSEWHERE = 180.0


class Owner(NamedTuple):
    """Who has a lease."""

    process: int
    host: str
    since: str
    """Local time, for a person."""
    machine: str
    """The boot and the namespace in which `process` means a process; empty where unknown."""
    key: str
    """Of this one taking of a lease; no other has it."""

    @classmethod
    def here(cls) -> "Owner":
        """This process, from now on."""
        return cls(
            process=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            machine=_machine(),
            key=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, content: bytes) -> "Owner | None":
        """The owner as the file says, or None: nobody, or half a line."""
        try:
            given = json.loads(content)
            return cls(**{field: given[field] for field in cls._fields})
        except (ValueError, TypeError, KeyError):
            return None

    def write(self, **more: Any) -> bytes:
        """The line for the file."""
        return json.dumps({**self._asdict(), **more}).encode() + b"\n"

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is a process of another machine, or of this one before it booted."""
        boot, ours = self.machine.split(" ")[0], _machine().split(" ")[0]
        return boot != ours if boot and ours else self.host != socket.gethostname()

    @property
    def is_dead(self) -> bool:
        """Whether this machine knows that the process is gone; False where it cannot know."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host} since {self.since}"


class Hold(Protocol):
    """One way to have a lease."""

    def is_surely_held(self, waited: float) -> bool: ...

    def try_to_take(self) -> bool: ...

    def start(self) -> None: ...

    def owner(self) -> Owner | None: ...

    def release(self) -> None: ...


class RunLease:
    """The right to write into a run folder. A context manager; the folder is made if missing.

    Only the first process of a run takes it. Entering raises ValueError if another run has it
    still after `patience` seconds: the processes of a run that is started again may take a moment
    to die. One on another machine is waited for longer, see `ELSEWHERE`. OSError for what the
    system refuses.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        origin: str | None = None,
        name: str | None = None,
        patience: float = 10.0,
    ) -> None:
        """origin: the gs:// URL that run_dir is a mirror of; the lease is of the folder there.

        name: the folder as messages call it.
        """
        self._run_dir, self._origin, self._patience = run_dir, origin, patience
        self._name = name or origin or str(run_dir)
        self._hold: Hold | None = None

    def __enter__(self) -> "RunLease":
        self._hold = self._hold_there() if self._origin else self._hold_here()
        self._hold.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _hold_here(self) -> Hold:
        self._run_dir.mkdir(parents=True, exist_ok=True)
        path = self._run_dir / LEASE_FILE
        lock = Lock(path)
        try:
            self._wait_for(lock)
            return lock
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        from jaxllm.commands.lease_beats import Beats, FilePlace

        beats = Beats(FilePlace(path))
        self._wait_for(beats)
        return beats

    def _hold_there(self) -> Hold:
        from jaxllm.commands.lease_beats import Beats
        from jaxllm.storage.stored_object import StoredObject

        beats = Beats(StoredObject(f"{self._origin}/{LEASE_FILE}"), settle=0.0)
        self._wait_for(beats)
        return beats

    def _wait_for(self, hold: Hold) -> None:
        began = time.monotonic()
        is_told = False
        while not hold.try_to_take():
            owner = hold.owner() or "another process"
            waited = time.monotonic() - began
            if waited >= self._patience and hold.is_surely_held(waited):
                raise ValueError(
                    f"run_dir {self._name} is in use by {owner}; "
                    "wait for its end, stop it, or give another run_dir"
                )
            if not is_told:
                is_told = True
                print(f"waiting for {owner}, which has {self._name}", file=sys.stderr, flush=True)
            time.sleep(_TICK_THERE if self._origin else _TICK)


class Lock:
    """A lease by flock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def try_to_take(self) -> bool:
        """Take the lease unless another process has it. OSError if there are no locks here."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = _is_same_file(file, self._path)
        except BlockingIOError:
            is_taken = False
        except BaseException:
            os.close(file)
            raise
        if not is_taken:
            os.close(file)
            return False
        os.ftruncate(file, 0)
        os.pwrite(file, Owner.here().write(), 0)
        self._file = file
        _held.add(self)
        return True

    def is_surely_held(self, waited: float) -> bool:
        """Whether the lock would be free if its owner had ended, after seconds of waiting.

        This machine's kernel frees it at once, the server that other machines share may take long.
        A file that names nobody is of an owner that is just coming or going.
        """
        owner = self.owner()
        return waited >= ELSEWHERE or (owner is not None and not owner.is_elsewhere)

    def start(self) -> None:
        """Nothing has to be done to keep a lock."""

    def owner(self) -> Owner | None:
        """Who has the lease, if the file says."""
        return read_owner(self._path)

    def release(self) -> None:
        """Let the next one have it. The file stays: a lock on a file that is gone locks nothing."""
        assert self._file is not None
        os.ftruncate(self._file, 0)
        self.forget()

    def forget(self) -> None:
        """Close the file; the lock is gone with the last process that has it open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_of_lease(path: Path) -> bool:
    """Whether a file in a run folder belongs to its lease, and not to the run."""
    return path.name.startswith(LEASE_FILE)


def read_owner(path: Path) -> Owner | None:
    """The owner that a lease file names, or None."""
    try:
        return Owner.read(path.read_bytes())
    except FileNotFoundError:
        return None


def _is_same_file(file: int, path: Path) -> bool:
    """Whether `path` still is the open file, which someone may have removed since."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _machine() -> str:
    """What makes a process number mean one process: the boot, and a container's namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


# A forked worker shares the lock, and would keep it from the next run if it outlived this process.
_held: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
