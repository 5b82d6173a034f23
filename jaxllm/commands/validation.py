"""Scores and samples of a run while it trains, and at its end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxllm.commands.assembly import Assembly
from jaxllm.commands.batches import arrangement, task
from jaxllm.commands.console import Console
from jaxllm.commands.prompts import begin, has_chats
from jaxllm.config import RunConfig
from jaxllm.data import Data
from jaxllm.evaluation import (
    Score,
    TaskFigure,
    Tasks,
    TextModel,
    find_tasks,
    make_eval_step,
    score_sets,
    task_figures,
    total,
)
from jaxllm.generation import Generator
from jaxllm.models import Decoder, DecoderConfig
from jaxllm.nn.param import Nested
from jaxllm.objectives import PrefixLm
from jaxllm.parallel.shard import host_rows
from jaxllm.tasks import Figures
from jaxllm.training.metrics import MetricsWriter
from jaxllm.training.state import TrainState

EVALUATION_SEED = 0  # of what an objective hides: the same in every evaluation


class _Stopped(Exception):
    """A stop was asked for in the middle of an evaluation."""


class Validation:
    """Scores validation sets and tasks, and continues prompts, with the averaged weights if any."""

    def __init__(
        self,
        config: RunConfig,
        parts: Assembly,
        data: Data,
        *,
        writer: MetricsWriter,
        console: Console,
        on_batch: Callable[[], None],
        must_stop: Callable[[], bool],
    ):
        """on_batch: called after each batch of a validation set or of a task.

        must_stop: asked then whether to leave the rest; all processes get the same answer.
        """
        self._config = config
        self._layout = parts.layout
        self._writer = writer
        self._console = console
        self._on_batch, self._must_stop = on_batch, must_stop
        self._eval_step = make_eval_step(parts.loss, parts.layout)
        self._rows = config.data.global_batch_size
        self._sets = data.validation_loaders(
            rows=host_rows(parts.layout, self._rows),
            arrange=arrangement(config, data, seed=EVALUATION_SEED),
        )
        self._task = task(config, parts, data.tokenizer, rows=self._rows)
        if self._task is not None and self._sets:
            self._task.check_figures()
        self._tokenizer = data.tokenizer
        self._has_chats = has_chats(config.data)
        self._generate = (
            Generator(
                parts.model,
                vocab_size=data.vocab_size,
                stop_ids=(
                    data.tokenizer.stop_ids
                    if self._has_chats and data.tokenizer
                    else (data.delimiter_id,)
                ),
                sampling=config.samples.sampling,
                has_prefix=isinstance(config.objective, PrefixLm),
                layout=parts.layout,
            )
            if isinstance(parts.model, Decoder)
            else None
        )
        self._tasks = _tasks(config, parts, data)
        self.latest: Score | None = None
        self.latest_figures: Figures | None = None
        self._latest_step = -1
        self.latest_sample = ""

    def is_due(self, step: int) -> bool:
        """Whether the config wants scores or samples after step `step`."""
        return _divides(self._config.evaluation.every, step) or _divides(
            self._config.samples.every, step
        )

    def run(self, step: int, state: TrainState, *, is_last: bool, is_recorded: bool = True) -> bool:
        """Do what is due after step `step`; everything if it is the last.

        False if it had to stop before its end; the next start does all of it anew.
        """
        try:
            self._run(step, state, is_last=is_last, is_recorded=is_recorded)
        except _Stopped:
            return False
        return True

    def _run(self, step: int, state: TrainState, *, is_last: bool, is_recorded: bool) -> None:
        params = state.scored
        if is_last or _divides(self._config.evaluation.every, step):
            record = self._score_sets(step, params, is_shown=is_recorded)
            if is_recorded:
                record |= self._score_tasks(step, params)
                if record:
                    self._writer.write({"step": step, **record})
        if (
            self._generate
            and self._tokenizer
            and (is_last or _divides(self._config.samples.every, step))
        ):
            prompts = self._config.samples.prompts
            ids = [begin(self._config.data, self._tokenizer, prompt) for prompt in prompts]
            texts = [self._tokenizer.decode(new) for new in self._generate(params, ids)]
            if self._has_chats:
                texts = [f"\n{text}" for text in texts]  # an answer stands below its question
            self.latest_sample = prompts[0] + texts[0]
            if is_recorded:
                for prompt, text in zip(prompts, texts, strict=True):
                    self._writer.text(step, prompt=prompt, sample=text)

    def loss_at(self, step: int) -> float | None:
        """The validation loss of this step, or None if it was not scored."""
        return self.latest.loss if self.latest and self._latest_step == step else None

    def score(self, params: Nested) -> dict[str, Score]:
        """The score of each validation set by its name."""
        return score_sets(
            self._eval_step,
            params,
            self._sets,
            layout=self._layout,
            rows=self._rows,
            on_batch=self._after_batch,
        )

    def _after_batch(self) -> None:
        self._on_batch()
        if self._must_stop():
            raise _Stopped

    def _score_sets(self, step: int, params: Nested, *, is_shown: bool) -> dict[str, float]:
        if not self._sets:
            return {}
        if self._task is not None:
            return self._score_task(step, params, is_shown=is_shown)
        scores = self.score(params)
        self.latest = total(scores.values())
        self._latest_step = step
        if is_shown:
            self._console.say(f"step {step}: validation {describe(self.latest)}")
        return evaluation_record(self.latest, scores)

    def _score_task(self, step: int, params: Nested, *, is_shown: bool) -> dict[str, float]:
        assert self._task is not None
        found = self._task.predict(params, self._sets, on_batch=self._after_batch)
        scores = {name: one.score for name, one in found.items()}
        self.latest, self._latest_step = total(scores.values()), step
        figures = self._task.figures(list(found.values()))
        self.latest_figures = figures
        if is_shown:
            self._console.say(
                f"step {step}: validation loss {self.latest.loss:.4f}, {figures.describe()}"
            )
        record = evaluation_record(self.latest, scores) | figures.record("validation_")
        if len(found) > 1:
            for name, one in found.items():
                record |= self._task.figures([one]).record(f"validation/{name}/")
        # The likelihood of an answer is no likelihood of text, which perplexity is of.
        return {key: value for key, value in record.items() if not key.endswith("perplexity")}

    def summary(self, data: Data) -> dict[str, Any]:
        """What summary.json says of the task's last figures; nothing without a task."""
        if self._task is None or self.latest_figures is None:
            return {}
        baseline = self._config.evaluation.baseline
        return self._task.summary(self.latest_figures, data, baseline=baseline)

    def _score_tasks(self, step: int, params: Nested) -> dict[str, float]:
        if self._tasks is None:
            return {}
        limit = self._config.evaluation.tasks_limit
        results = self._tasks.run(params, limit=limit, has_errors=False, on_done=self._after_batch)
        record = tasks_record(task_figures(results))
        shown = ", ".join(
            f"{key.removeprefix('task_')} {value:.4f}" for key, value in record.items()
        )
        self._console.say(f"step {step}: tasks {shown}")
        return record


def check_validation(config: RunConfig, data: Data) -> None:
    """ValueError for scores or samples that the data or the model cannot give."""
    has_sets = data.has_validation
    if config.evaluation.baseline is not None and not has_sets:
        raise ValueError(
            f"evaluation.baseline is {config.evaluation.baseline}, but no dataset has a validation "
            "split to compare on; give one (data.datasets.NAME.validation_every), or leave it out"
        )
    needs_sets = not config.evaluation.tasks or config.checkpoints.keep_best
    if config.evaluation.every and needs_sets and not has_sets:
        raise ValueError(
            f"evaluation.every is {config.evaluation.every}, but no dataset has a validation "
            "split; give one (data.datasets.NAME.validation_every), or evaluation.every=null"
        )
    if config.evaluation.tasks:
        if data.tokenizer is None:
            raise ValueError(
                f"evaluation.tasks is {', '.join(config.evaluation.tasks)}, but the data has no "
                "tokenizer to turn text into ids; set data.tokenizer, or leave the tasks out"
            )
        find_tasks(config.evaluation.tasks, folder=config.evaluation.tasks_path)
    if data.tokenizer is None:
        if config.samples.every:
            raise ValueError(
                "samples.every is set, but the data has no tokenizer to turn ids into text; "
                "set data.tokenizer, or samples.every to null"
            )
        return
    if not isinstance(config.model, DecoderConfig):
        return
    longest = max(
        len(begin(config.data, data.tokenizer, prompt)) for prompt in config.samples.prompts
    )
    config.model.check_length(
        longest + config.samples.sampling.max_tokens,
        key="the longest of samples.prompts with samples.sampling.max_tokens",
    )


def _tasks(config: RunConfig, parts: Assembly, data: Data) -> Tasks | None:
    """The tasks of the config, with their data, if it has any."""
    if not config.evaluation.tasks:
        return None
    assert data.tokenizer is not None, "check_validation comes first"
    model = TextModel(
        parts.model,
        data.tokenizer,
        max_length=config.data.sequence_length,
        layout=parts.layout,
        rows=config.data.global_batch_size,
    )
    return Tasks(model, config.evaluation.tasks, folder=config.evaluation.tasks_path)


def evaluation_record(whole: Score, scores: Mapping[str, Score]) -> dict[str, float]:
    """What an evaluation record says of validation sets: of all together, then each by its name."""
    record = _figures("validation_", whole)
    for name, part in scores.items():
        record.update(_figures(f"validation/{name}/", part))
    return record


def tasks_record(found: Sequence[TaskFigure]) -> dict[str, float]:
    """What an evaluation record says of tasks, as task_NAME_METRIC; also the filter, if any."""
    return {
        f"task_{one.task}_{one.metric}"
        + ("" if one.filter == "none" else f"_{one.filter}"): one.value
        for one in found
    }


def describe(score: Score) -> str:
    """A score as a person reads it."""
    text = f"loss {score.loss:.4f}, perplexity {score.perplexity:.2f}"
    if score.bits_per_byte is not None:
        text += f", {score.bits_per_byte:.4f} bits per byte"
    return text


def _figures(prefix: str, score: Score) -> dict[str, float]:
    figures = {f"{prefix}loss": score.loss, f"{prefix}perplexity": score.perplexity}
    if score.bits_per_byte is not None:
        figures[f"{prefix}bits_per_byte"] = score.bits_per_byte
    return figures


def _divides(every: int | None, step: int) -> bool:
    return every is not None and step % every == 0
