"""Experiment trackers outside the run folder: Weights & Biases, and Trackio. Both are extras.

A tracker cannot be cut back when a run resumes. Since a resumed run repeats its steps bit for
bit, the steps that the tracker holds are not sent again: a mark in the run folder remembers them.
"""

import html
import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from jaxllm.schema import Config
from jaxllm.training.logfile import in_words


class WandbConfig(Config):
    """Sends metrics to Weights & Biases."""

    type: Literal["wandb"] = "wandb"
    """Which tracker this is."""
    project: str = Field(min_length=1)
    """The project in Weights & Biases that the run belongs to."""
    name: str | None = None
    """The run's name there; null takes the name of the run folder."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes under the run folder for a later `wandb sync`."""

    def build(self, run_dir: Path, run_config: Mapping[str, Any]) -> "Tracker":
        """Opens the run, or opens it again. Raises ValueError if wandb is not installed."""
        wandb = _load("wandb")
        mark = StepMark(run_dir / "wandb.mark")
        run = wandb.init(
            project=self.project,
            name=self.name or run_dir.name,
            mode=self.mode,
            id=mark.run_id,
            resume="allow",
            dir=str(run_dir),
            config=dict(run_config),
        )

        def as_html(text: str) -> Any:
            return wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)

        return Tracker(run, mark=mark, as_text=as_html)


class TrackioConfig(Config):
    """Sends metrics to Trackio, which keeps them on this machine."""

    type: Literal["trackio"] = "trackio"
    """Which tracker this is."""
    project: str = Field(min_length=1)
    """The project in Trackio that the run belongs to."""
    name: str | None = None
    """The run's name there; null takes the name of the run folder and a random suffix."""

    def build(self, run_dir: Path, run_config: Mapping[str, Any]) -> "Tracker":
        """Opens the run, or opens it again. Raises ValueError if trackio is not installed."""
        trackio = _load("trackio")
        mark = StepMark(run_dir / "trackio.mark")
        run = trackio.init(
            project=self.project,
            # Trackio knows a run by its name alone, so two folders must not share one.
            name=self.name or f"{run_dir.name}-{mark.run_id[:6]}",
            resume="allow",
            config=dict(run_config),
        )

        def as_code_block(text: str) -> Any:
            return trackio.Markdown("\n".join("    " + line for line in text.splitlines()))

        return Tracker(run, mark=mark, as_text=as_code_block)


LoggerConfig = Annotated[WandbConfig | TrackioConfig, Field(discriminator="type")]


class Tracker:
    """One run in a tracker, behind the interface of every metrics sink."""

    def __init__(self, run: Any, *, mark: "StepMark", as_text: Any) -> None:
        self._run = run
        self._mark = mark
        self._held = mark.step
        self._as_text = as_text

    def write(self, record: Mapping[str, Any]) -> None:
        """Sends the record's values at its step, unless the tracker holds that step already."""
        step = record["step"]
        self._send({key: value for key, value in record.items() if key != "step"}, step=step)

    def text(self, step: int, *, sample: str, prompt: str) -> None:
        """Sends a sample with its prompt, shown as they are."""
        self._send({"sample": self._as_text(f"{prompt}\n\n{sample}")}, step=step)

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()

    def _send(self, values: dict[str, Any], *, step: int) -> None:
        if step > self._held:
            self._run.log(values, step=step)
            self._mark.advance(step)


class StepMark:
    """A file with the run's id in a tracker and the last step that the tracker was given.

    The step has a fixed width, so that advancing overwrites it in place in one small write.
    """

    _LAYOUT = "{run_id} {step:020d}\n"

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            self.run_id, step = path.read_text().split()
            self.step = int(step)
        else:
            self.run_id, self.step = uuid.uuid4().hex[:12], -1
            path.parent.mkdir(parents=True, exist_ok=True)

    def advance(self, step: int) -> None:
        """Records `step`."""
        self.step = step
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.write(file, self._LAYOUT.format(run_id=self.run_id, step=step).encode())
            finally:
                os.close(file)
        except OSError as error:
            raise in_words(error, self._path) from error


def _load(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"metrics.loggers names {package}, which is not installed. Install it with "
            f"`pip install jaxllm[{package}]`, or remove that logger from metrics.loggers."
        ) from error
