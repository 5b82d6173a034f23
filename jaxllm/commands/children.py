"""The processes of one run: started together, watched, ended together; and what they say."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import IO, NamedTuple

from jaxllm.commands.guardian import Guardian

_LAST_WORDS = 2.0  # seconds for what is still in the pipes of a process that ended


class Command(NamedTuple):
    """What one process runs."""

    argv: Sequence[str]
    env: Mapping[str, str]


class Lines:
    """Writes whole lines of several writers to stdout and stderr, one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def say(self, words: str) -> None:
        """One line about what happens, with the time, on stderr."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._write(sys.stderr, f"{now} launch: {words}\n".encode())

    def pass_on(self, pipe: IO[bytes], stream: IO[str], prefix: bytes) -> None:
        """Write each line of `pipe` to `stream` behind the prefix, until the pipe ends."""
        with pipe:
            for line in pipe:
                self._write(stream, prefix + line + (b"" if line.endswith(b"\n") else b"\n"))

    def _write(self, stream: IO[str], line: bytes) -> None:
        # Where nobody reads any more, a process that speaks must not be held up by it.
        with self._lock, suppress(OSError, ValueError):
            stream.buffer.write(line)  # type: ignore[attr-defined]
            stream.flush()


class Children:
    """Processes that live and die together. A context manager; leaving it kills what is left.

    Each leads a process group of its own: a ctrl-C at the terminal reaches only the launcher,
    which passes it on once. The first process speaks for all and has the launcher's own stdout,
    which may be a terminal with a progress bar; any other line has its process in front, as `[2]`,
    unless there is only one.
    """

    def __init__(self, commands: Sequence[Command], lines: Lines) -> None:
        self._lines = lines
        self._processes: list[subprocess.Popen[bytes]] = []
        self._speakers: list[threading.Thread] = []
        self._stack = ExitStack()
        self._codes: list[int | None] = [None] * len(commands)
        self._has_ranks = len(commands) > 1
        self._guardian = self._stack.enter_context(Guardian())
        try:
            for rank, command in enumerate(commands):
                self._start(rank, command)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for process in self._processes:
            process.wait()
        self.codes()
        for speaker in self._speakers:
            speaker.join(_LAST_WORDS)
        self._stack.close()

    @property
    def pids(self) -> list[int]:
        """The number of each process, which is also that of its group."""
        return [process.pid for process in self._processes]

    def codes(self) -> list[int | None]:
        """The exit code of each process, below zero the signal that killed it; None: it runs."""
        for rank, process in enumerate(self._processes):
            if self._codes[rank] is None and process.poll() is not None:
                self._codes[rank] = process.returncode
                _kill_group(process.pid)  # workers that it left behind
                self._guardian.release(process.pid)
        return list(self._codes)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to every process that runs, though not to its workers."""
        for process in self._running():
            process.send_signal(number)

    def kill(self) -> list[int]:
        """Kill every process that runs, its workers too. Returns which processes."""
        running = self._running()
        for process in running:
            _kill_group(process.pid)
        return [rank for rank, process in enumerate(self._processes) if process in running]

    def _running(self) -> list[subprocess.Popen[bytes]]:
        codes = self.codes()
        return [
            process for process, code in zip(self._processes, codes, strict=False) if code is None
        ]

    def _start(self, rank: int, command: Command) -> None:
        process = subprocess.Popen(
            self._guardian.enter(command.argv),
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if rank else None,
            stderr=subprocess.PIPE,
            pass_fds=[self._guardian.pipe],
            process_group=0,
        )
        self._processes.append(process)
        for pipe, stream in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            if pipe is not None:
                speaker = threading.Thread(
                    target=self._lines.pass_on,
                    args=(pipe, stream, b"[%d] " % rank if self._has_ranks else b""),
                    daemon=True,  # a worker that left its group may hold the pipe open for ever
                    name=f"lines of process {rank}",
                )
                speaker.start()
                self._speakers.append(speaker)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left of it
        os.killpg(group, signal.SIGKILL)
