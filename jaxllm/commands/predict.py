"""Answers of a trained model to the records of a file: classes, spans, translations, embeddings."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched, islice
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxllm.commands.assembly import examples_of, task
from jaxllm.commands.console import Console
from jaxllm.commands.prediction_batches import PredictionBatches
from jaxllm.commands.prediction_file import PredictionFile
from jaxllm.commands.run_folder import TrainedModel, open_model, place_of
from jaxllm.commands.run_place import open_to_read
from jaxllm.data.content import file_hash
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_sources import ExampleSourceConfig, source_of
from jaxllm.data.example_table import Table, table_of
from jaxllm.data.examples import ExamplesConfig
from jaxllm.parallel import distributed
from jaxllm.tasks import Task

_BLOCK = 2048  # records that are sorted by length together, and written together


class _Block(NamedTuple):
    """Records that are answered together, and what the model reads of them."""

    records: tuple[ExampleRecord, ...]
    table: Table


def predict(
    run: str | Path,
    source: Path,
    out: Path,
    *,
    keep: Sequence[str] = (),
    batch_size: int | None = None,
    step: int | None = None,
) -> Path:
    """Write the answer to each record of `source` to `out`, a line of JSON each, in order.

    run: a folder, or gs://, of a task. keep: fields of the records that stand before the answers.
    batch_size: rows of full length in a batch; default that of training. Stopped, the same call
    goes on. ValueError for a run without a task, records that are none, and a file that is there.
    """
    _check_alone()
    console = Console(is_shown=True)
    with open_to_read(run) as run_dir:
        trained = open_model(run_dir, step=step)
        dataset, doing = _task_of(trained, run_dir, rows=batch_size)
        made_of = {
            "run": place_of(run_dir),
            "step": trained.step,
            "config": trained.config.model_dump(mode="json"),
            "input": file_hash(source),
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
        num_read, num_bytes = 0, source.stat().st_size
        try:
            for block in _blocks(dataset, source_of(source), doing, skipped=file.num_done):
                answers = batches.answers(block.table)
                file.add([_said(*pair, keep) for pair in zip(block.records, answers, strict=True)])
                num_read += sum(record.num_bytes for record in block.records)
                console.data_progress("predict", min(num_read, num_bytes), num_bytes)
        except KeyboardInterrupt:
            console.close()
            console.say(f"stopped: {file.num_done:,} answers are kept; the same command goes on")
            raise
        console.close()
        count = file.num_done
        file.complete()
    console.say(f"{count:,} answers of {place_of(run_dir)}, step {trained.step}, are in {out}")
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
    trained: TrainedModel, run_dir: Path, *, rows: int | None
) -> tuple[ExamplesConfig, Task]:
    """How records are read, and what is done. ValueError for a run that answers nothing."""
    config = trained.config
    rows = rows or config.data.global_batch_size
    doing = task(config, trained.parts, trained.tokenizer, rows=rows)
    dataset = examples_of(config)
    if doing is None or dataset is None:
        advice = "jaxllm generate continues texts" if config.model.type == "decoder" else ""
        raise ValueError(
            f"{place_of(run_dir)} was trained with objective.type={config.objective.type}, which "
            f"answers nothing about a record{advice and f'; {advice}'}"
        )
    return dataset, doing


def _blocks(
    dataset: ExamplesConfig, source: ExampleSourceConfig, doing: Task, *, skipped: int
) -> Iterator[_Block]:
    """The records behind the first `skipped` ones, encoded a block ahead while the device works."""

    def encoded(records: tuple[ExampleRecord, ...]) -> _Block:
        examples = []
        for record in records:
            found = dataset.encode(record, doing.tokenizer, is_labelled=False)
            if len(found) != 1:
                raise DatasetError("source", f"{record.where}: {len(found)} examples, not one")
            examples += found
        return _Block(records, table_of(examples))

    records = batched(islice(source.records(), skipped, None), _BLOCK)
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as executor:
        ahead = None
        for block in records:
            following = executor.submit(encoded, block)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


def _said(record: ExampleRecord, answer: Mapping[str, Any], keep: Sequence[str]) -> dict[str, Any]:
    """A line of the output."""
    both = set(keep) & set(answer)
    if both:
        raise ValueError(f"--keep {sorted(both)[0]}: the answers have that name; leave it out")
    kept = {}
    for field in keep:
        if field not in record.fields:
            there = ", ".join(map(repr, record.fields))
            raise ValueError(f"--keep {field}: {record.where} has no such field (fields: {there})")
        kept[field] = record.fields[field]
        try:
            json.dumps(kept[field], ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"--keep {field}: {record.where} has there what a line of JSON cannot hold: {error}"
            ) from error
    return {**kept, **answer}
