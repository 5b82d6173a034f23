"""`jaxllm evaluate`: loss, perplexity and bits per byte of a run by source, or scores of tasks."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxllm.commands.batches import arrangement, needs_examples, task
from jaxllm.commands.console import Console
from jaxllm.commands.run_folder import (
    TrainedModel,
    dataset_folders,
    open_model,
    place_of,
    write_text,
)
from jaxllm.commands.run_place import open_to_read
from jaxllm.commands.validation import EVALUATION_SEED
from jaxllm.data import DataConfig
from jaxllm.evaluation import (
    Predicted,
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
from jaxllm.parallel import distributed
from jaxllm.parallel.shard import host_rows
from jaxllm.tasks import Task

_ROWS = 8  # of a device, in a batch of a task's longest texts, if it was trained on so many


def evaluate(
    run: str | Path, *, data: Sequence[str] = (), step: int | None = None
) -> dict[str, Score]:
    """Score the run's validation sets, or dataset folders and text files given; print a table.

    Of a run with a task the table has its figures, as accuracy.

    run: a folder, or gs://. ValueError for a folder that is no run, or for data made with another
    tokenizer.
    """
    with open_to_read(run) as run_dir:
        return _evaluate(run_dir, data=data, step=step)


def _evaluate(run_dir: Path, *, data: Sequence[str], step: int | None) -> dict[str, Score]:
    trained = open_model(run_dir, step=step)
    console = Console(is_shown=distributed.is_first())
    layout = trained.parts.layout
    config = _data_config(trained, data, run=place_of(run_dir))
    rows = config.global_batch_size
    opened = config.build(
        tokenizer=trained.tokenizer,
        folders={} if data else dataset_folders(run_dir),
        on_progress=console.data_progress,
    )
    console.close()
    sets = opened.validation_loaders(
        rows=host_rows(layout, rows),
        arrange=arrangement(trained.config, opened, seed=EVALUATION_SEED),
    )
    title = f"{place_of(run_dir)}, step {trained.step}"
    doing = task(trained.config, trained.parts, trained.tokenizer, rows=rows)
    if not sets:
        given = f"--data {' '.join(data)}" if data else place_of(run_dir)
        advice = "" if doing else "; give text or a dataset with --data"
        raise ValueError(f"{given} has no validation split{advice}")
    if doing is not None:
        doing.check_figures()
        predicted = doing.predict(trained.params, sets)
        console.show(_figures_table(title, doing, predicted))
        return {name: one.score for name, one in predicted.items()}
    scores = score_sets(
        make_eval_step(trained.parts.loss, layout),
        trained.params,
        sets,
        layout=layout,
        rows=rows,
    )
    console.show(_table(title, scores))
    return scores


def _data_config(trained: TrainedModel, data: Sequence[str], *, run: str) -> DataConfig:
    """What is scored: the data that is given, or else the run's own."""
    config = trained.config.data
    if data and needs_examples(trained.config):
        raise ValueError(
            f"--data: {run} was trained on examples, and these are texts; leave it out to score "
            "the run's own validation sets"
        )
    if data:
        datasets = {name: _dataset(name) for name in data}
        config = DataConfig.model_validate({**config.model_dump(), "datasets": datasets})
    # The batch it was trained with need not divide over the devices at hand.
    devices = trained.parts.layout.degree("batch")
    rows = -(-config.global_batch_size // devices) * devices
    return config.model_copy(update={"global_batch_size": rows})


def task_names(tasks: str | None, given: set[str]) -> list[str]:
    """The names in --tasks, none without it.

    given: other options for tasks. ValueError where they come alone, and for --tasks without names.
    """
    if tasks is None:
        if given:
            options = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in given))
            raise ValueError(f"{options}: only for tasks; give --tasks too, or leave it out")
        return []
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--tasks {tasks!r} names none; give some, as --tasks hellaswag,arc_easy")
    return names


def evaluate_tasks(
    run: str | Path,
    names: Sequence[str],
    *,
    include_path: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    add_bos_token: bool | None = None,
    output: Path | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """Put tasks of the lm-evaluation-harness to a run; print a table and write the results.

    run: a folder, or gs://. names, include_path: see `find_tasks`. num_fewshot, limit: see
    `Tasks.run`. max_length: tokens that the model sees; None is data.sequence_length.
    add_bos_token: the `has_bos` of `TextModel`. output: a JSON file, or None. Returns what is
    written there.
    ValueError for a folder that is no run, or for tasks that do not exist or do not fit; OSError,
    before anything is scored, for an output whose folder cannot be made.
    """
    find_tasks(names, folder=include_path)  # before the weights are read
    with open_to_read(run) as run_dir:
        place = place_of(run_dir)
        trained = open_model(run_dir, step=step)
    is_shown = distributed.is_first()
    if output is not None and is_shown:
        with _writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
    if trained.tokenizer is None:
        raise ValueError(f"{place} was trained on ids without a tokenizer; tasks are of text")
    if not trained.config.objective.is_likelihood_of_text:
        raise ValueError(
            f"{place} was trained on objective.type={trained.config.objective.type}, which does "
            "not tell the likelihood of a text, as tasks need it"
        )
    model = _text_model(trained, max_length=max_length, has_bos=add_bos_token)
    tasks = Tasks(model, names, folder=include_path)
    results = tasks.run(trained.params, num_fewshot=num_fewshot, limit=limit, is_shown=is_shown)
    results["config"] = {
        "model": "jaxllm",
        "model_args": {"run": place, "step": trained.step},
        "max_length": model.max_length,
        "add_bos_token": add_bos_token,
        "limit": limit,
    }
    title = f"{place}, step {trained.step}"
    Console(is_shown=is_shown).show(_tasks_table(title, task_figures(results)))
    if output is not None and is_shown:
        # What JSON has no form for is a function in a task's YAML, by its name.
        with _writing(output):
            text = json.dumps(results, indent=2, default=str, ensure_ascii=False)
            write_text(output, text + "\n")
    return results


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """OSErrors that name the option."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"--tasks-output: {error.filename or output} cannot be written: {error.strerror}"
        ) from error


def _text_model(
    trained: TrainedModel, *, max_length: int | None, has_bos: bool | None
) -> TextModel:
    assert trained.tokenizer is not None
    if max_length is not None:
        trained.config.model.check_length(max_length, key="--max-length")
    layout, data = trained.parts.layout, trained.config.data
    devices = layout.degree("batch")
    return TextModel(
        trained.parts.model,
        trained.tokenizer,
        max_length=max_length or data.sequence_length,
        layout=layout,
        rows=devices * min(_ROWS, -(-data.global_batch_size // devices)),
        has_bos=has_bos,
    )


def _dataset(path: str) -> dict[str, Any]:
    """The dataset config of a --data argument: a folder of tokens, or text to hold out whole."""
    if Path(path).is_dir():
        return {"type": "prepared", "path": path}
    name = path.removesuffix(".gz").removesuffix(".zst")
    kind = {".jsonl": "jsonl", ".parquet": "parquet", ".txt": "text"}.get(Path(name).suffix)
    if kind is None:
        raise ValueError(
            f"--data {path}: give a dataset folder, or files that end in .txt, .jsonl "
            "(.gz, .zst) or .parquet"
        )
    corpus = {"type": kind, "paths": [path]}
    return {"type": "corpus", "corpus": corpus, "validation_every": 1}


def _table(title: str, scores: dict[str, Score]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("source")
    for heading in ("tokens", "bytes", "loss", "perplexity", "bits per byte"):
        table.add_column(heading, justify="right")
    rows = dict(scores)
    if len(scores) > 1:
        rows["all"] = total(scores.values())
    for name, part in rows.items():
        table.add_row(
            name,
            f"{part.num_tokens:,}",
            "" if part.raw_bytes is None else f"{part.raw_bytes:,}",
            f"{part.loss:.4f}",
            f"{part.perplexity:.2f}",
            "" if part.bits_per_byte is None else f"{part.bits_per_byte:.4f}",
        )
    return table


def _figures_table(title: str, doing: Task, predicted: dict[str, Predicted]) -> Table:
    """The figures of a task, of each set and of all together."""
    parts = {name: [one] for name, one in predicted.items()}
    if len(parts) > 1:
        parts["all"] = list(predicted.values())
    records = {name: doing.figures(ones).record("") for name, ones in parts.items()}
    table = Table(title=title, title_justify="left")
    table.add_column("source")
    headings = ["tokens", "loss", "perplexity"] if doing.is_of_text else ["scored", "loss"]
    figures = [name.replace("_", " ") for name in next(iter(records.values()))]
    for heading in (*headings, *figures):
        table.add_column(heading, justify="right")
    for name, record in records.items():
        score = total(one.score for one in parts[name])
        perplexity = [f"{score.perplexity:.2f}"] if doing.is_of_text else []
        table.add_row(
            name,
            f"{score.num_tokens:,}",
            f"{score.loss:.4f}",
            *perplexity,
            *(f"{figure:.4f}" for figure in record.values()),
        )
    return table


def _tasks_table(title: str, rows: Sequence[TaskFigure]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("task", "filter", "shots", "metric"):
        table.add_column(heading)
    for heading in ("value", "± stderr"):
        table.add_column(heading, justify="right")
    last = ""
    for row in rows:
        table.add_row(
            row.task if row.task != last else "",
            row.filter,
            "" if row.num_fewshot is None else str(row.num_fewshot),
            row.metric,
            f"{row.value:.4f}",
            "" if row.stderr is None else f"± {row.stderr:.4f}",
        )
        last = row.task
    return table
