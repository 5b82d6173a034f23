"""Answers in a file, a line of JSON each: complete, or to be gone on with by the same command.

OUT               all answers, in the order of the input
OUT.partial       those of the first blocks, each block whole
OUT.partial.json  what they were made of, and which records the last two blocks end with
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from jaxllm.data.content import write_atomically
from jaxllm.storage import is_remote, text_of


def check_output(path: Path) -> None:
    """ValueError for a file of answers that is there already, or that is in a bucket."""
    if is_remote(path):
        raise ValueError(
            f"--output {text_of(path)}: answers are written to a local file; give one, and copy it "
            "with `gcloud storage cp`"
        )
    if path.exists():
        raise ValueError(f"--output: {path} is there already; remove it, or give another file")


class PredictionFile:
    """Takes answers in blocks of a fixed number of records. A context manager."""

    def __init__(self, path: Path, *, made_of: Mapping[str, Any], block: int) -> None:
        """Begin, or go on behind the last whole block that is there.

        made_of: what decides the answers beside the records, as JSON. block: records of each block
        but the last. ValueError for a file that is there already, or a partial one that is made of
        other things or that another process writes; OSError for one that cannot be written.
        """
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._card = path.with_name(f"{path.name}.partial.json")
        check_output(path)
        self._made_of = json.loads(json.dumps({**made_of, "block": block}))
        with ExitStack() as stack:
            with self._writing():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = stack.enter_context(self._partial.open("ab"))
            self._lock()
            with self._writing():
                self._done = self._cut_back(block)
            stack.pop_all()

    @property
    def num_done(self) -> int:
        """How many records of the input have their answers."""
        return self._done[-1][0] if self._done else 0

    def check_records(self, digest: str) -> None:
        """ValueError unless `digest` is of the records that have their answers.

        See `PredictionRecords`.
        """
        if self._done and self._done[-1][1] != digest:
            raise ValueError(
                f"--output: {self._partial} has the answers to {self.num_done:,} records, which "
                f"are not the first of --input any more; remove it and {self._card}, or give "
                "another file"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._file.closed and not self.num_done:
            # Nothing was answered: nothing is left that other options would be compared with.
            self._card.unlink(missing_ok=True)
            self._partial.unlink(missing_ok=True)
        self._file.close()

    def add(self, answers: Sequence[str], *, digest: str) -> None:
        """The answers of the next block, JSON without line ends; on disk when this returns.

        digest: of all records of the input up to the last of these.
        """
        done = [*self._done[-1:], (self.num_done + len(answers), digest)]
        with self._writing():
            # Before the answers: killed between the two, the block before is known as well.
            write_atomically(self._card, json.dumps({**self._made_of, "done": done}, indent=2))
            self._file.write("".join(f"{one}\n" for one in answers).encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        self._done = done

    def complete(self) -> None:
        """Nothing is missing: the file gets its name."""
        with self._writing():
            self._partial.rename(self._path)
            self._card.unlink(missing_ok=True)  # there is none where there was no record
        self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """OSErrors that name what cannot be written."""
        try:
            yield
        except OSError as error:
            path = error.filename or self._partial
            raise OSError(
                f"--output: {path} cannot be written: {error.strerror}; give a file in another "
                "folder, or mend this one"
            ) from error

    def _lock(self) -> None:
        """Until the file is closed no other process gets it, and writes the same answers again."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one that had it may have completed it since it was opened here.
            is_free = os.path.samestat(os.fstat(self._file.fileno()), self._partial.stat())
        except (BlockingIOError, FileNotFoundError):
            is_free = False
        if not is_free:
            raise ValueError(
                f"--output: another process is writing {self._partial}; wait for it, or give "
                "another file"
            )

    def _check(self, before: Mapping[str, Any]) -> None:
        now = self._made_of
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

    def _cut_back(self, block: int) -> list[tuple[int, str]]:
        """How many records have their answers, with their digest, if any have.

        What is behind the last whole block is cut off: lines of one that was being written.
        """
        card = json.loads(self._card.read_text(encoding="utf-8")) if self._card.exists() else {}
        stops = [0]
        with self._partial.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                stops.append(stops[-1] + len(line))
        done = [
            (count, digest)
            for count, digest in card.pop("done", [])
            if count < len(stops) and count % block == 0
        ]
        if done:
            self._check(card)
        self._file.truncate(stops[done[-1][0]] if done else 0)
        return done[-1:]
