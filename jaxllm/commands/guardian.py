"""Kills the processes of a gang if the process that started them dies, by `kill -9` too.

The guardian is a small process in a session of its own, so that no ctrl-C and no signal to the
launcher's group reaches it. It reads a pipe that only the launcher holds open. A process tells its
number there before it becomes the command that it is for, so none is ever unknown. If the pipe
ends, the launcher is gone, and the guardian kills the process groups that are left, workers of the
processes included. This needs nothing but POSIX, where Linux's PR_SET_PDEATHSIG would reach only
the processes themselves, and only there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_GUARD = """
import os, signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups = set()
with open(0, "rb") as pipe:
    for line in pipe:
        group = int(line)
        groups.add(group) if group > 0 else groups.discard(-group)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""
# What a shell ignores for a background job, and Python for itself, outlasts a change of program.
_ENTER = """
import os, signal, sys
pipe = int(sys.argv[1])
os.write(pipe, b"%d\\n" % os.getpid())
os.close(pipe)
for number in (signal.SIGINT, signal.SIGPIPE):
    signal.signal(number, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""
_PYTHON = (sys.executable, "-I", "-S", "-c")  # without the site's packages: 10 ms


class Guardian:
    """The guard of one gang. A context manager; leave it when every process has ended."""

    def __enter__(self) -> "Guardian":
        reader, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*_PYTHON, _GUARD],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reader)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._pipe)
        self._process.wait()

    @property
    def pipe(self) -> int:
        """The file descriptor that a process started by `enter` must inherit."""
        return self._pipe

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that puts itself under guard and then becomes `command`.

        It must lead a process group of its own.
        """
        return [*_PYTHON, _ENTER, str(self._pipe), *command]

    def release(self, group: int) -> None:
        """Forget a process group that has ended: its number may come to be another's."""
        with suppress(BrokenPipeError):  # the guardian itself was killed
            os.write(self._pipe, b"-%d\n" % group)
