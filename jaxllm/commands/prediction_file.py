"""Answers in a file, a line of JSON each: complete, or to be gone on with by the same command.

OUT               all answers, in the order of the input
OUT.partial       those of the first blocks, each block whole
OUT.partial.json  what they were made of
"""

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from jaxllm.data.content import write_atomically


class PredictionFile:
    """Takes answers in blocks of a fixed number of records. A context manager."""

    def __init__(self, path: Path, *, made_of: Mapping[str, Any], block: int) -> None:
        """Begin, or go on behind the last whole block that is there.

        made_of: what decides the answers, as JSON. block: records of each block but the last.
        ValueError for a file that is there already, or a partial one that is made of other things
        or that another process writes.
        """
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._card = path.with_name(f"{path.name}.partial.json")
        if path.exists():
            raise ValueError(f"--output: {path} is there already; remove it, or give another file")
        made_of = json.loads(json.dumps({**made_of, "block": block}))
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self._file = stack.enter_context(self._partial.open("ab"))
            self._lock()
            if self._card.exists():
                self._check(json.loads(self._card.read_text(encoding="utf-8")), made_of)
            else:
                self._file.truncate(0)
                write_atomically(self._card, json.dumps(made_of, indent=2))
            self.num_done = self._cut_back(block)
            """How many records of the input have their answers."""
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """The answers of the next block; they are on disk when this returns."""
        lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.num_done += len(answers)

    def complete(self) -> None:
        """Nothing is missing: the file gets its name."""
        self._file.close()
        self._partial.rename(self._path)
        self._card.unlink()

    def _lock(self) -> None:
        """Until the file is closed no other process gets it, and writes the same answers again."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"--output: another process is writing {self._partial}; wait for it, or give "
                "another file"
            ) from error

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differences = [
            f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if differences:
            raise ValueError(
                f"--output: {self._partial} was begun with other things:\n  "
                + "\n  ".join(differences)
                + f"\nremove it and {self._card}, or give another file"
            )

    def _cut_back(self, block: int) -> int:
        """Cut off what is behind the last whole block: lines of one that was being written."""
        whole = 0
        stops = [0]
        with self._partial.open("ab+") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                stops.append(stops[-1] + len(line))
            whole = (len(stops) - 1) // block * block
            file.truncate(stops[whole])
        return whole
