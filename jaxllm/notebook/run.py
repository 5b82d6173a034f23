"""A run, as a notebook has it in hand."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.commands.console import only_progress
from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.export import export_model
from jaxllm.commands.generate import generate
from jaxllm.commands.report import report
from jaxllm.commands.run_folder import METRICS_FILE, read_config
from jaxllm.commands.run_place import open_to_read
from jaxllm.commands.run_records import read_summary
from jaxllm.config import RunConfig
from jaxllm.notebook.drawing import Drawing, below
from jaxllm.notebook.quiet import quiet_libraries
from jaxllm.notebook.texts import Continuation, Samples, Scores, facts
from jaxllm.reporting.charts import Chart, describe, standalone
from jaxllm.reporting.panels import sections
from jaxllm.reporting.run import RunRecords, read_run
from jaxllm.reporting.scale import duration
from jaxllm.storage import as_path

_LOSSES = re.compile(r"loss|validation_loss|validation/.+/loss")


class Run:
    """A run folder, or one at gs://: what it measured, and what can be done with its model.

    A path wherever one is asked for. Everything is read from the folder when it is asked for, so
    that it is never older than the run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = as_path(path)

    @property
    def config(self) -> RunConfig:
        """The resolved config."""
        with open_to_read(self.path) as folder:
            return read_config(folder)

    @property
    def summary(self) -> dict[str, Any]:
        """What came out; empty while the run is not done."""
        with open_to_read(self.path) as folder:
            return read_summary(folder) or {}

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns of equal length, ready for a data frame: `step`, and each number by its name.

        float64; NaN where a step has no record of that number.
        """
        series = self._records().series
        steps = sorted({int(step) for one in series.values() for step in one.steps})
        place = {step: index for index, step in enumerate(steps)}
        columns = {"step": np.array(steps, np.int64)}
        for name, one in series.items():
            columns[name] = np.full(len(steps), np.nan)
            columns[name][[place[int(step)] for step in one.steps]] = one.values
        return columns

    @property
    def samples(self) -> Samples:
        """The texts that were generated while training."""
        return Samples(self._records().samples)

    @property
    def step(self) -> int:
        """The last step with a record; 0 before the first."""
        with open_to_read(self.path) as folder:
            is_trained = (folder / METRICS_FILE).is_file()
            return (read_run(folder).last_step or 0) if is_trained else 0

    def plot(self, *names: str, beside: Sequence["Run"] = ()) -> Drawing:
        """Curves over the steps, of the loss or of the metrics named; those of other runs with it.

        names: as in `metrics`. ValueError for one that no run has recorded.
        """
        records = [run._records() for run in (self, *beside)]
        known = {name for run in records for name in run.series}
        chosen = set(names) or {name for name in known if _LOSSES.fullmatch(name)}
        if not chosen <= known:
            raise ValueError(
                f"{', '.join(sorted(chosen - known))}: not recorded in {self.path}; there are "
                f"{', '.join(sorted(known))}"
            )
        drawings = [_drawing(chart) for chart in _charts(records, chosen)]
        if not drawings:
            asked = ", ".join(sorted(chosen)) or "a loss"
            raise ValueError(f"{self.path} has no curve of {asked}")
        return below(drawings)

    @quiet_libraries()
    def generate(self, prompt: str = "", *, step: int | None = None, **sampling: Any) -> str:
        """The model's continuation of `prompt`, which a notebook shows with the prompt.

        step: a checkpoint, by default the newest. sampling: fields of
        `jaxllm.generation.Sampling`, as temperature, top_p, max_tokens and seed.
        """
        with only_progress():
            (text,) = generate(self.path, [prompt], sampling=sampling, step=step)
        return Continuation(text, prompt=prompt)

    @quiet_libraries()
    def evaluate(self, *, data: Sequence[str] = (), step: int | None = None) -> Scores:
        """The `Score` of each validation set by name, or of text files and datasets given."""
        with only_progress():
            return Scores(evaluate(self.path, data=data, step=step))

    def report(self, *, beside: Sequence["Run"] = (), out: str | Path | None = None) -> Path:
        """Write one HTML page about this run, and others beside it; returns where it is."""
        return report([run.path for run in (self, *beside)], out=out)

    @quiet_libraries()
    def export(self, out: str | Path, *, step: int | None = None, dtype: str = "float32") -> Path:
        """Write the model as a folder that `transformers` opens; returns where it is."""
        export_model(self.path, Path(out), step=step, dtype=dtype)
        return Path(out)

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {text}" for name, text in self._facts().items())
        return f"Run({str(self.path)!r}: {shown})"

    def _repr_html_(self) -> str:
        return facts(str(self.path), self._facts())

    def _records(self) -> RunRecords:
        with open_to_read(self.path) as folder:
            return read_run(folder)

    def _facts(self) -> dict[str, str]:
        """What a person wants to know first."""
        with open_to_read(self.path) as folder:
            config, summary = read_config(folder), read_summary(folder)
            records = read_run(folder) if (folder / METRICS_FILE).is_file() else None
        if records is None:
            return {"model": f"{config.model.num_layers} layers", "steps": "not trained here"}
        steps = f"{records.last_step or 0:,} of {config.training.steps:,}"
        found = {"steps": steps + ("" if summary else ", not done"), **_last(records)}
        if summary:
            found["tokens"] = f"{summary['tokens']:,}"
            found["speed"] = f"{float(summary['tokens_per_second']):,.0f} tokens/s"
            found["time"] = duration(float(summary["wall_seconds"]))
        return found


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; `run` has its last step saved, and goes on when it is trained.

    As any interruption of a cell it stops the cells after it too.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(
            f"interrupted and saved; the same cell goes on from there. To look at it: "
            f"jaxllm.open_run({str(run.path)!r})"
        )
        self.run = run

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback, for nothing went wrong."""
        return [str(self)]


def open_run(path: str | Path) -> Run:
    """The run of a folder that `train` or `import_model` made. ValueError if it is none."""
    run = Run(path)
    with open_to_read(run.path) as folder:
        read_config(folder)
    return run


def _last(records: RunRecords) -> Mapping[str, str]:
    """The last value of what counts."""
    names = {
        "loss": "training loss",
        "validation_loss": "validation loss",
        "validation_bits_per_byte": "bits per byte",
    }
    return {
        words: f"{records.series[name].last:.4f}"
        for name, words in names.items()
        if name in records.series
    }


def _charts(records: Sequence[RunRecords], chosen: set[str]) -> list[Chart]:
    narrowed = [
        replace(run, series={name: one for name, one in run.series.items() if name in chosen})
        for run in records
    ]
    return [chart for section in sections(narrowed) for chart in section.charts if chart.lines]


def _drawing(chart: Chart) -> Drawing:
    width, height = 760, 320
    return Drawing(standalone(chart, width=width, height=height), width, height, describe(chart))
