"""Answers of a trained model to the records of a file: classes, spans, translations, embeddings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxllm.commands.batches import needs_examples, task
from jaxllm.commands.console import Console
from jaxllm.commands.prediction_batches import PredictionBatches
from jaxllm.commands.prediction_dataset import dataset_to_read_as
from jaxllm.commands.prediction_file import PredictionFile, check_output
from jaxllm.commands.prediction_records import Block, PredictionRecords
from jaxllm.commands.run_folder import TrainedModel, open_model, place_of
from jaxllm.commands.run_place import open_to_read
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import source_of
from jaxllm.parallel import distributed
from jaxllm.storage.mirror import read_origin
from jaxllm.tasks import Task

_BLOCK = 2048  # records that are sorted by length together, and written together


def predict(
    run: str | Path,
    source: Path,
    out: Path,
    *,
    keep: Sequence[str] = (),
    batch_size: int | None = None,
    step: int | None = None,
    dataset: str | None = None,
) -> Path:
    """Write the answer to each record of `source` to `out`, a line of JSON each, in order.

    run: a folder, or gs://, of a task. keep: fields of the records that stand before the answers.
    batch_size: rows of full length in a batch; default that of training. dataset: of the run,
    whose options records are read with; default any, if they are alike. Stopped, also by a record
    that is none, the same call goes on. ValueError for a run without a task, records that are none,
    and a file that is there.
    """
    _check_alone()
    check_output(out)
    records = PredictionRecords(source_of(source))
    console = Console(is_shown=True)
    with open_to_read(run) as run_dir:
        trained = open_model(run_dir, step=step)
        place = place_of(run_dir)
        name, doing = _task_of(trained, place, dataset=dataset, rows=batch_size)
        made_of = {
            # Whatever folder the command is given in.
            "run": read_origin(run_dir) or str(run_dir.resolve()),
            "step": trained.step,
            "config": trained.config.model_dump(mode="json"),
            "dataset": name,
            "keep": list(keep),
            "batch_size": batch_size,
        }
    batches = PredictionBatches(
        doing,
        trained.params,
        length=trained.config.data.sequence_length,
        rows=batch_size or trained.config.data.global_batch_size,
        num_devices=trained.parts.layout.degree("batch"),
    )
    with PredictionFile(out, made_of=made_of, block=_BLOCK) as file:
        if file.num_done:
            console.say(f"going on behind record {file.num_done:,}")
        records.skip(file.num_done)
        file.check_records(records.digest)
        blocks = records.blocks(doing, size=_BLOCK, keep=keep)
        progress = _Progress(console, source.stat().st_size, done=records.num_bytes)
        _answer(blocks, batches, file, progress=progress)
        count = file.num_done
        file.complete()
    console.say(f"{count:,} answers of {place}, step {trained.step}, are in {out}")
    return out


def _check_alone() -> None:
    """ValueError where other processes are asked the same, and would write the same file."""
    distributed.initialize()
    if jax.process_count() > 1:
        raise ValueError(
            f"predict is done by one process with its own devices, and there are "
            f"{distributed.found() or jax.process_count()}; start it by itself, with a part of the "
            "input on each host"
        )


def _task_of(
    trained: TrainedModel, place: str, *, dataset: str | None, rows: int | None
) -> tuple[str, Task]:
    """The dataset that records are read as, and what is done with them.

    ValueError for a run that answers nothing, and for a dataset that it does not have.
    """
    config = trained.config
    found = dataset_to_read_as(config, dataset) if needs_examples(config) else None
    doing = None
    if found is not None:
        rows = rows or config.data.global_batch_size
        doing = task(found[1], trained.parts, trained.tokenizer, rows=rows)
    if found is None or doing is None:
        advice = "jaxllm generate continues texts" if config.model.type == "decoder" else ""
        raise ValueError(
            f"{place} was trained with objective.type={config.objective.type}, which answers "
            f"nothing about a record{advice and f'; {advice}'}"
        )
    return found[0], doing


class _Progress:
    """How much of a file has its answers, as a bar."""

    def __init__(self, console: Console, size: int, *, done: int) -> None:
        """size: of the file, in bytes. done: of these have their answers already."""
        self.console, self._size, self._done = console, size, done

    def add(self, block: Block) -> None:
        """One more block has its answers."""
        self._done += sum(record.num_bytes for record in block.records)
        self.console.data_progress("predict", min(self._done, self._size), self._size)


def _answer(
    blocks: Iterator[Block],
    batches: PredictionBatches,
    file: PredictionFile,
    *,
    progress: _Progress,
) -> None:
    """Write the answers of one block after the other; of those before a stop none is lost."""
    try:
        for block in blocks:
            file.add(_lines(block, batches), digest=block.digest)
            progress.add(block)
    except (KeyboardInterrupt, ValueError, OSError):
        progress.console.close()
        if file.num_done:
            progress.console.say(
                f"stopped: {file.num_done:,} answers are kept; the same command goes on"
            )
        raise
    progress.console.close()


def _lines(block: Block, batches: PredictionBatches) -> list[str]:
    """What is written of each record of a block."""
    answers = batches.answers(block.table)
    return [
        _line(record, kept, answer)
        for record, kept, answer in zip(block.records, block.kept, answers, strict=True)
    ]


def _line(record: ExampleRecord, kept: Mapping[str, Any], answer: Mapping[str, Any] | None) -> str:
    both = set(kept) & set(answer or ())
    if both:
        raise ValueError(f"--keep {sorted(both)[0]}: the answers have that name; leave it out")
    broken = (
        f"{record.where}: what the model answers is no finite number; take another checkpoint with "
        "--step, and look at the run's loss"
    )
    if answer is None:
        raise ValueError(broken)
    try:
        return json.dumps({**kept, **answer}, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(broken) from error
