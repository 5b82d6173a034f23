"""What a person sees while a run goes on: a summary, a live bar, one line an event."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from jaxllm.commands.assembly import Assembly
from jaxllm.commands.notebook_bar import NotebookBar
from jaxllm.commands.step_flops import flops_per_token
from jaxllm.config import RunConfig, non_defaults
from jaxllm.data import Data
from jaxllm.hardware import usual_flops
from jaxllm.models import EncoderDecoderConfig, ModelConfig, TwoTowersConfig
from jaxllm.parallel import distributed

_LOG_SECONDS = 10.0  # without a terminal, a line at most this often
_FILE_WIDTH = 120  # of tables that go to a file or a pipe
_CALIBRATION_STEPS = 10  # after so many, the expected time is told again, as measured

_has_results = ContextVar("has_results", default=True)


@contextmanager
def only_progress() -> Iterator[None]:
    """Within it commands show how far they are, and no results: the caller shows them itself."""
    token = _has_results.set(False)
    try:
        yield
    finally:
        _has_results.reset(token)


class Console:
    """Prints on the first process only.

    A live bar on a terminal and in a notebook, plain lines elsewhere.
    """

    def __init__(self, *, is_shown: bool):
        is_notebook = RichConsole().is_jupyter
        # Lines are plain text there too, and not an element of the page each.
        self._rich = RichConsole(
            quiet=not is_shown, highlight=False, soft_wrap=True, force_jupyter=False
        )
        if not self._rich.is_terminal:
            self._rich.width = _FILE_WIDTH
        self._notebook = NotebookBar() if is_notebook and is_shown else None
        self._bar: Progress | None = None
        self._last_line = 0.0
        self._task: Any = None
        self._phase = ""

    def say(self, text: str) -> None:
        """One line, above the bar on a terminal."""
        if _has_results.get():
            self._rich.print(text, markup=False)

    def data_progress(self, phase: str, done: int, total: int) -> None:
        """How far the preparation of data is."""
        if phase != self._phase:
            self.close()
            self._phase = phase
        self._advance(f"data: {phase}", done, total, "", is_count=False)

    def weights_progress(self, num_bytes: int) -> Callable[[int], None]:
        """Takes the bytes of each piece of weights, of `num_bytes` in all."""
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            figures = f"{min(done, num_bytes) / 1e6:,.1f} of {num_bytes / 1e6:,.1f} MB"
            self._advance("weights", min(done, num_bytes), num_bytes, figures, is_count=False)

        return advance

    def step(self, step: int, steps: int, record: Mapping[str, Any]) -> None:
        """The bar at `step` of `steps`, with the figures of the step."""
        figures = (
            f"loss {record['loss']:.4f}  lr {record['learning_rate']:.2e}  "
            f"{record['tokens_per_second']:,.0f} tokens/s"
        )
        if record.get("mfu") is not None:
            figures += f"  MFU {record['mfu']:.1%}"
        if self._notebook is not None:
            self._notebook.add_loss(step, record["loss"])
        self._advance("training", step, steps, figures, is_count=True)

    def show(self, table: Table | Text) -> None:
        """A table or a styled text."""
        if _has_results.get():
            self._rich.print(table)

    def interrupted(self, step: int, *, is_saved: bool) -> None:
        """Say that the run stopped early and how it goes on."""
        self.close()
        how = "which is saved; the same command goes on from it" if is_saved else "going back"
        self.say(f"interrupted after step {step}, {how}")

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._notebook is not None:
            self._notebook.close()
        self._phase = ""

    def _advance(self, name: str, done: int, total: int, figures: str, *, is_count: bool) -> None:
        share = f"{done}/{total}" if is_count else f"{done / max(total, 1):.0%}"
        if self._notebook is not None:
            words = f"{name} {share}  {figures}".rstrip()
            self._notebook.advance(done, total, words, is_lasting=is_count)
            return
        if not self._rich.is_terminal:
            now = time.monotonic()
            if now - self._last_line > _LOG_SECONDS or done == total:
                self._last_line = now
                self._rich.print(f"{name} {share}  {figures}".rstrip(), markup=False)
            return
        if self._bar is None:
            count = (MofNCompleteColumn(),) if is_count else ()
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                *count,
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
                console=self._rich,
                transient=not is_count,
            )
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, figures="")
        self._bar.update(self._task, completed=done, figures=figures)


def params_words(count: int, active: int, trained: int | None = None) -> str:
    """The size of a model; of a mixture, also of what one token meets.

    trained: how many of them change, which is told where it is not all.
    """
    of_token = "" if active == count else f" ({active:,} for a token)"
    changing = "" if trained in (None, count) else f", {trained:,} of them trained"
    return f"{count:,} parameters{of_token}{changing}"


def run_summary(config: RunConfig, parts: Assembly, data: Data | None) -> str:
    """What is about to run: sizes, layout, and the settings that differ from the defaults.

    data: None where it is not there.
    """
    mesh = " x ".join(
        f"{axis} {size}" for axis, size in parts.layout.mesh.shape.items() if size > 1
    )
    device = parts.layout.mesh.devices.flat[0]
    found = distributed.found()
    dtype = config.model.compute_dtype(parts.layout.platform)
    lines = [
        f"model       "
        f"{params_words(parts.num_params, parts.num_active_params, parts.num_trained_params)}, "
        f"{_layers(config.model)} layers, {_vocabulary(parts)}{dtype} compute",
        f"data        {_plan(config, data)}",
        f"expected    {_expected_time(config, parts)} of training on "
        f"{len(parts.layout.mesh.devices.flat)} x {device.device_kind}",
        f"layout      {config.parallel.layout} on {mesh or 'one device'}",
        *([] if found is None else [f"processes   {found}"]),
        f"run folder  {config.run_dir}",
        "settings    " + _settings(config),
    ]
    return "\n".join(lines)


def _layers(model: ModelConfig) -> str:
    """Of two stacks both depths."""
    is_two = isinstance(model, EncoderDecoderConfig | TwoTowersConfig)
    return " + ".join(map(str, model.stack_depths)) if is_two else str(model.num_layers)


def _vocabulary(parts: Assembly) -> str:
    """Of a model that reads tokens."""
    size = parts.model.vocab_size
    return f"vocabulary {size:,}, " if size else ""


def _settings(config: RunConfig) -> str:
    shown = [f"{key}={value}" for key, value in non_defaults(config).items() if key != "run_dir"]
    rows, row = [], ""
    for setting in shown:
        if row and len(row) + len(setting) > 86:
            rows.append(row)
            row = ""
        row += ("  " if row else "") + setting
    return "\n            ".join([*rows, row])


def _plan(config: RunConfig, data: Data | None) -> str:
    """How many tokens there are, and how many the run takes."""
    per_step = config.data.global_batch_size * config.data.sequence_length
    steps = config.training.steps
    plan = f"{per_step:,} tokens a step x {steps:,} steps = {per_step * steps:,} tokens"
    if data is None:
        return plan
    if data.examples:
        return _plan_of_examples(config, data)
    there = sum(stream.num_tokens for stream, _ in data.training_streams.values())
    return f"{there:,} training tokens; {plan} ({per_step * steps / max(there, 1):.2f} epochs)"


def _plan_of_examples(config: RunConfig, data: Data) -> str:
    """How many examples and rows there are, how many rows the run takes, and what it leaves out.

    Texts may be among the examples.
    """
    sources = data.training_sources
    rows = sum(source.num_rows for source, _ in sources.values())
    examples = sum(
        data.examples[name]["train"].num_examples for name in sources.keys() & data.examples
    )
    tokens = sum(stream.num_tokens for stream, _ in data.training_streams.values())
    there = f"{examples:,} training examples" + (
        f" and {tokens:,} tokens of text" if tokens else ""
    )
    per_step, steps = config.data.global_batch_size, config.training.steps
    plan = (
        f"{there} in {rows:,} rows; {per_step:,} rows a step x {steps:,} "
        f"steps = {per_step * steps:,} rows ({per_step * steps / max(rows, 1):.2f} epochs)"
    )
    return "\n            ".join([plan, *data.truncations()])


def _expected_time(config: RunConfig, parts: Assembly) -> str:
    """The model's FLOPs over what its devices usually reach; measured steps refine it later."""
    rows = config.training.steps * config.data.global_batch_size
    flops = rows * config.data.sequence_length * flops_per_token(config, parts)
    speed = usual_flops(list(parts.layout.mesh.devices.flat))
    return "an unknown time" if speed is None else f"about {duration(flops / speed)}"


def step_shower(
    console: Console, start: int, steps: int, *, tokens_per_step: int
) -> Callable[[Mapping[str, Any]], None]:
    """Shows each record on the bar, and after a few steps tells how long the rest will take."""
    is_told = False
    speeds: list[float] = []

    def show(record: Mapping[str, Any]) -> None:
        nonlocal is_told
        console.step(record["step"], steps, record)
        remaining = steps - record["step"]
        speeds.append(record["tokens_per_second"])
        if not is_told and record["step"] >= start + _CALIBRATION_STEPS and remaining:
            is_told = True
            # The median: the first steps also wake the machine up.
            left = duration(remaining * tokens_per_step / statistics.median(speeds))
            console.say(f"at this speed the remaining {remaining:,} steps take {left}")

    return show


def duration(seconds: float) -> str:
    """A span of time as a person says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"
