"""A fake Google Cloud in a folder, and the scripts of tpu/ that are let loose on it."""

import ast
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from .fakes import hosts, literals
from .fakes.scenario import Scenario
from .fakes.service import Service

ROOT = Path(__file__).parents[2]
NAME = "pod"  # of the queued resource
SETTINGS = {
    "JAXLLM_PROJECT": "my-project",
    "JAXLLM_ZONE": "us-west4-a",
    "JAXLLM_BUCKET": "gs://my-bucket",
    "JAXLLM_NAME": NAME,
    "JAXLLM_ACCELERATOR": "v5litepod-16",
    "JAXLLM_CONFIG": "demo",
    "JAXLLM_POLL": "0.05",
    "JAXLLM_MAX_BACKOFF": "0",
    "JAXLLM_STOP_WAIT": "20",
    "JAXLLM_ANSWER_WAIT": "60",
}
_WAIT = 60  # seconds for anything that should happen; a busy machine needs a part of it


class Ended(NamedTuple):
    """How a script ended."""

    code: int
    out: str
    err: str


@contextmanager
def _usual_hangup() -> Iterator[None]:
    """What is started inside hears SIGHUP, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


class Script:
    """A script of tpu/ under way, in a process group of its own as a terminal starts it."""

    def __init__(self, argv: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True)
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err, _usual_hangup():
            self._process = subprocess.Popen(
                argv,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        """All of stderr and stdout so far."""
        return self._err.read_text() + self._out.read_text()

    def wait_until(
        self, happened: Callable[[], object], what: str, *, within: float = _WAIT
    ) -> None:
        """Until something happened; fails if the script ends before, or after so many seconds."""
        deadline = time.monotonic() + within
        while not happened():
            assert self.is_running, f"it ended before {what}:\n{self.said}"
            assert time.monotonic() < deadline, f"never came: {what}:\n{self.said}"
            time.sleep(0.02)

    def ended(self, *, within: float = _WAIT) -> Ended:
        """Waits for the end."""
        try:
            code = self._process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.said}") from None
        return Ended(code, self._out.read_text(), self._err.read_text())

    def interrupt(self) -> None:
        """Ctrl-C: the terminal signals the whole group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def send(self, number: int) -> None:
        """A signal to the script alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it and all that it started."""
        for pid in _session(self._process.pid):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()


class Cloud:
    """The fake cloud of one test. Close it: that kills whatever still runs."""

    def __init__(self, folder: Path, scenario: Scenario, *, repository: Path) -> None:
        self.folder = folder
        self._repository = repository
        self._scripts: list[Script] = []
        for name in ("bin", "home", "tmp", "buckets/my-bucket", "hosts"):
            (folder / name).mkdir(parents=True)
        literals.save(folder / "scenario", asdict(scenario))
        _program(folder / "bin" / "gcloud", "tpu.fakes.gcloud")
        shutil.copy(Path(hosts.PROGRAMS) / "sleep", folder / "bin" / "sleep")

    @property
    def environment(self) -> dict[str, str]:
        """What the scripts see: the fakes first, and no way to a real account."""
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "LANG": "C.UTF-8",
            "CLOUDSDK_CONFIG": str(self.folder / "home" / "no-account"),
            "FAKE_CLOUD": str(self.folder),
        }

    def start(self, script: str, *arguments: str, **settings: str) -> Script:
        """Start tpu/SCRIPT. settings: more variables, beyond SETTINGS."""
        argv = ["bash", str(self._repository / "tpu" / script), *arguments]
        folder = self.folder / "scripts" / str(len(self._scripts))
        environment = {**self.environment, **SETTINGS, **settings}
        started = Script(argv, folder=folder, environment=environment)
        self._scripts.append(started)
        return started

    def run(self, script: str, *arguments: str, **settings: str) -> Ended:
        """The same, to its end."""
        return self.start(script, *arguments, **settings).ended()

    def gcloud(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A call that somebody else makes; it is recorded like any other."""
        argv = [str(self.folder / "bin" / "gcloud"), *arguments]
        return subprocess.run(
            argv, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    @property
    def calls(self) -> list[list[str]]:
        """Every call of gcloud so far."""
        return records(self.folder / "calls")

    def calls_of(self, *words: str) -> list[list[str]]:
        """The calls that have these words in a row."""
        count = len(words)
        return [
            call
            for call in self.calls
            if any(tuple(call[at : at + count]) == words for at in range(len(call)))
        ]

    @property
    def history(self) -> list[tuple[str, str]]:
        """What befell queued resources: (created, refused, deleted or a state; name)."""
        return self._state["history"]

    @property
    def events(self) -> list[str]:
        """The same without the names."""
        return [event for event, _ in self.history]

    def launches(self, place: str, *, life: int = 0) -> list[dict]:
        """How the stub of a run was launched on a host: argv and environment of each time."""
        return records(self.host(place, life=life) / "launches")

    @property
    def left(self) -> list[str]:
        """Queued resources that there still are: each costs, or holds quota."""
        return sorted(self._state["resources"])

    def host(self, place: str, *, life: int = 0, name: str = NAME) -> Path:
        """The folder of the host SLICE.WORKER."""
        return self.folder / "hosts" / f"{name}-{life}" / place

    def preempt(self, name: str = NAME) -> None:
        """Take all hosts away in this moment."""
        with Service(self.folder) as service:
            service.preempt(name)

    def close(self) -> None:
        """Kill all that runs, scripts and hosts."""
        for script in self._scripts:
            script.kill()
        hosts.kill_all(self.folder / "hosts")

    @property
    def _state(self) -> dict:
        path = self.folder / "service"
        return literals.load(path) if path.exists() else {"resources": {}, "history": []}


def records(path: Path) -> list:
    """The literals of a file, one a line; none if there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [ast.literal_eval(line) for line in lines]


def commands(text: str) -> list[list[str]]:
    """The calls of gcloud that a dry run printed."""
    return [words for words in map(shlex.split, text.splitlines()) if words[:1] == ["gcloud"]]


def _program(path: Path, module: str) -> None:
    """Python that runs a module of the tests as a program; without site-packages it starts fast."""
    tests = str(ROOT / "tests")
    start = f"import sys; sys.path.insert(0, {tests!r}); from {module} import main; main()"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S -c {shlex.quote(start)} "$@"\n')
    path.chmod(0o755)


def _session(leader: int) -> list[int]:
    """The processes of a session, as `start_new_session` makes it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found
