"""The table of `make test-faults`: what was done to runs, how often, and what they lost."""

from dataclasses import dataclass

import pytest


@dataclass
class Experiment:
    """One row. Its test says what it did by `done` and adds to the counts."""

    test: str
    done: str = ""
    tries: int = 0
    """Starts, saves, steps or files, whatever the experiment repeats."""
    kills: int = 0
    """Processes ended or stopped from outside."""
    steps_again: int = 0
    """Steps that were computed a second time, over all kills."""
    most_steps_again: int = 0
    """The same after one kill; the interval between checkpoints bounds it."""
    bytes_lost: int = 0
    """Bytes of the finished run that differ from the run that nothing stopped."""
    is_passed: bool = False

    def lost(self, steps: int) -> None:
        """A kill after which `steps` steps were computed again."""
        self.steps_again += steps
        self.most_steps_again = max(self.most_steps_again, steps)


TABLE = pytest.StashKey[list[Experiment]]()
OUTCOME = pytest.StashKey[pytest.TestReport]()

_HEAD = ("experiment", "tries", "kills", "steps again (most)", "bytes lost", "")


def table(rows: list[Experiment]) -> str:
    """The rows as a Markdown table, ready for the README."""
    lines = [f"| {' | '.join(_HEAD)} |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        again = f"{row.steps_again} ({row.most_steps_again})"
        cells = (row.done or row.test, row.tries, row.kills, again, row.bytes_lost)
        verdict = "as promised" if row.is_passed else "**failed**"
        lines.append(f"| {' | '.join(map(str, cells))} | {verdict} |")
    return "\n".join(lines)
