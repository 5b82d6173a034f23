"""A small file that says from outside whether a run gets on: `<run>/heartbeat`.

    python -m jaxllm.training.heartbeat RUN --limit SECONDS

is a liveness probe for the container of a run: it ends with 1 if the run is stuck, and with 0 else.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HEARTBEAT_FILE = "heartbeat"

_INTERVAL = 5.0  # seconds
_PATIENCE = 1.0  # seconds that the end waits for a file system


class Heartbeat:
    """A context manager that writes {step, phase, time} while there is progress.

    time: seconds since 1970 of the writing, as the file's own. A file that has become old means a
    run without progress, or none. It is written at most every five seconds, and at the end, by a
    thread of its own, for a file system may hang. That a write fails is ignored on purpose: a probe
    then sees an old file, and a run does not end for it.
    """

    def __init__(self, run_dir: Path, *, interval: float = _INTERVAL) -> None:
        self._path, self._interval = run_dir / HEARTBEAT_FILE, interval
        self._latest: tuple[int | None, str] = (None, "start")
        self._has_progress = False
        self._wake, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")

    def beat(self, step: int | None, phase: str) -> None:
        """There was progress: `step` is the last one finished, None before the first."""
        self._latest = (step, phase)
        self._has_progress = True
        self._wake.set()

    def __enter__(self) -> "Heartbeat":
        self._has_progress = False  # what came before says nothing of what is watched
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._wake.set()
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.wait()
            self._wake.clear()
            self._write_if_new()
            self._closed.wait(self._interval)
        self._write_if_new()

    def _write_if_new(self) -> None:
        if self._has_progress:
            self._has_progress = False
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        step, phase = self._latest
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        record = {"step": step, "phase": phase, "time": time.time()}
        temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)


def is_stuck(run_dir: Path, *, limit: float, since: float) -> bool:
    """Whether a run showed progress after `since`, and none in the last `limit` seconds.

    since: in seconds since 1970. A file that is older, or none, says nothing: it is of another
    start of the run, or all but the first of several processes write none.
    """
    try:
        text = (run_dir / HEARTBEAT_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    written = float(json.loads(text)["time"])
    return written >= since and time.time() - written > limit


def main(arguments: Sequence[str] | None = None) -> int:
    """The probe; a container begins with its process 1."""
    import psutil

    from jaxllm.storage import is_remote
    from jaxllm.storage.mirror import mirror_folder

    parser = argparse.ArgumentParser(prog="python -m jaxllm.training.heartbeat")
    parser.add_argument("run", help="the run folder, as in the config")
    parser.add_argument("--limit", type=float, required=True, help="seconds without progress")
    given = parser.parse_args(arguments)
    folder = mirror_folder(given.run) if is_remote(given.run) else Path(given.run)
    since = psutil.Process(1).create_time()
    if not is_stuck(folder, limit=given.limit, since=since):
        return 0
    print(f"{given.run}: no progress for more than {given.limit:g} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
