"""Results of compiles on disk, so that a search that was stopped goes on where it was.

A result's name is a hash of all that decides it: the config as far as the step depends on it, the
candidate, the slice, versions of what builds the program, and jaxllm's own source.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_space import Candidate

# Where the step, and what is read from its program, come from.
_SOURCES = (
    *("aot", "data", "kernels", "models", "nn", "objectives", "optim", "parallel", "training"),
    *("config.py", "cross_checks.py", "objective_checks.py"),
    *("hardware.py", "schema.py", "xla_flags.py"),
    *("commands/assembly.py", "commands/batches.py", "commands/step_flops.py"),
    *("commands/compile.py", "commands/compile_report.py"),
)


class ResultCache:
    """A folder of results, one file each. context: what they depend on besides the candidate."""

    def __init__(self, folder: Path | None, context: Mapping[str, Any]):
        self._folder = folder
        self._context = json.dumps(context, sort_keys=True)

    def load(self, candidate: Candidate) -> Outcome | None:
        """An earlier result; None if there is none that can be read."""
        path = self._path(candidate)
        if path is None or not path.is_file():
            return None
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            return None  # cut short; it is compiled anew and replaced
        return Outcome(candidate, saved["report"], saved["error"])

    def store(self, outcome: Outcome) -> None:
        """Keep a result. The file appears complete or not at all."""
        path = self._path(outcome.candidate)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        saved = {
            "candidate": outcome.candidate.overrides(),
            "report": outcome.report,
            "error": outcome.error,
        }
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def _path(self, candidate: Candidate) -> Path | None:
        if self._folder is None:
            return None
        text = self._context + json.dumps(candidate.overrides(), sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@cache
def source_hash() -> str:
    """A hash of the source that decides the program and what is read from it."""
    digest = hashlib.sha256()
    for file in source_files():
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def source_files() -> list[Path]:
    """The files of `source_hash`: all that a result may depend on, but not the search itself."""
    found: list[Path] = []
    for source in _SOURCES:
        path = Path(__file__).parents[1] / source
        found += [path] if path.is_file() else sorted(path.rglob("*.py"))
    return [file for file in found if not file.name.startswith("search")]
