"""A preparation's work as Apache Beam pipelines: on this machine, on Dataflow, on Flink.

There are three, one after another: scan, tokenise, write. Their tasks and results are JSON files in
the work folder, so that a pipeline stays small whatever the corpus, and what was tokenised outlives
a pipeline that failed. Workers import this module and what it needs, and no JAX.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions, TypeOptions
from pydantic import TypeAdapter

from jaxllm.data.beam_shards import write_split
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.parts import PartResult, ShardTask
from jaxllm.data.remote_files import exists, in_threads, read_file
from jaxllm.data.whole_files import write_file
from jaxllm.storage import as_path, is_remote

TASKS_IN_FILE = 256  # a few megabytes, however many spans a task has


class BeamMakers:
    """See `Makers`: the workers of a Beam pipeline."""

    def __init__(self, options: Sequence[str], work: Path) -> None:
        """options: Beam's own. work: a folder that its workers reach under the same name.

        Raises ValueError for options that Beam does not know, and for a folder out of reach.
        """
        self._options = pipeline_options(options)
        self._folder = work / "beam"
        runner = self._options.view_as(StandardOptions).runner
        if "dataflow" in runner.lower() and not is_remote(work):
            raise ValueError(
                f"data.root: the workers of {runner} do not reach {work.parent}; set data.root to "
                f"a folder in gs://"
            )
        if not is_remote(self._folder):
            self._folder.mkdir(exist_ok=True)

    def run[Task, Result](
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[int, Result]]:
        """Yields (index of the task, result) when all are done.

        A ValueError of a task is raised here. Any other error fails the pipeline, after as many
        attempts as its runner makes.
        """
        if not tasks:
            return
        name = f"{function.__name__}-{uuid.uuid4().hex[:8]}"
        task_type, result_type = _types(function)
        results = self._folder / f"{name}-results.json"
        with self._pipeline() as pipeline:
            _ = (
                pipeline
                | self._tasks(name, task_type, tasks)
                | "Work" >> beam.ParDo(Work(function))
                | "Gather" >> beam.combiners.ToList()
                | "Keep" >> beam.Map(_write_lines, str(results))
            )
        if not exists(results):
            raise OSError(
                f"the Beam pipeline ended as {pipeline.result.state} and left no results in "
                f"{results}; its runner's log says why"
            )
        for line in sorted(read_file(results).decode().splitlines(), key=_index):
            index, outcome = _index(line), json.loads(line.split("\t", 1)[1])
            if "problem" in outcome:
                raise _error(**outcome)
            yield index, result_type.validate_python(outcome["result"])

    def write_shards(self, tasks: Sequence[ShardTask]) -> Iterator[int]:
        """Writes every shard anew, and yields the index of each when all are done."""
        splits = {task.split: [t for t in tasks if t.split == task.split] for task in tasks}
        with self._pipeline() as pipeline:
            written = [
                write_split(
                    pipeline | f"{split} tasks" >> self._tasks(split, TypeAdapter(ShardTask), its),
                    its,
                )
                for split, its in splits.items()
            ]
        for check in written:
            check()
        yield from range(len(tasks))

    def _pipeline(self) -> Any:
        return beam.Pipeline(options=self._options)

    def _tasks(self, name: str, kind: TypeAdapter, tasks: Sequence[Any]) -> Any:
        """A transform that gives the tasks, a line each, spread over the workers."""
        lines = [f"{index}\t{kind.dump_json(task).decode()}" for index, task in enumerate(tasks)]
        blocks = [lines[i : i + TASKS_IN_FILE] for i in range(0, len(lines), TASKS_IN_FILE)]
        files = [str(self._folder / f"{name}-tasks-{i:06d}.json") for i in range(len(blocks))]
        in_threads(lambda block: _write_lines(block[0], block[1]), zip(blocks, files, strict=True))
        return _Tasks(files)


class _Tasks(beam.PTransform):
    def __init__(self, files: list[str]) -> None:
        super().__init__()
        self._files = files

    def expand(self, pipeline: Any) -> Any:
        return (
            pipeline
            | "Files" >> beam.Create(self._files)
            | "Lines" >> beam.FlatMap(_read_lines)
            | "Spread" >> beam.Reshuffle()
        )


class Work(beam.DoFn):
    """Does each task of a line, and gives its outcome as one; counts what became of documents."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def process(self, line: str) -> Iterator[str]:
        task_type, result_type = _types(self._function)
        outcome: dict[str, Any]
        try:
            result = self._function(task_type.validate_json(line.split("\t", 1)[1]))
        except DatasetError as error:
            outcome = {"key": error.key, "problem": error.problem}
        except ValueError as error:
            outcome = {"key": None, "problem": str(error)}
        else:
            if isinstance(result, PartResult):
                _count(result)
            outcome = {"result": result_type.dump_python(result, mode="json")}
        yield f"{_index(line)}\t{json.dumps(outcome)}"


def pipeline_options(given: Sequence[str]) -> PipelineOptions:
    """Beam's options; without a runner, this process works, or the processes that are asked for.

    Beam's own default would first look for a program to download. Raises ValueError for an option
    that Beam does not know and would leave out.
    """
    options = PipelineOptions(list(given))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or "FnApiRunner"
    # The writer's elements are pairs of a number and a dictionary, of which Beam cannot tell.
    options.view_as(TypeOptions).pipeline_type_check = False
    every, known = options.get_all_options(retain_unknown_options=True), options.get_all_options()
    unknown = [f"--{name}" for name in every if name not in known]
    unknown += [item for item in given if item.startswith("-") and not item.startswith("--")]
    if unknown:
        raise ValueError(
            f"Beam has no option {', '.join(unknown)}; behind `--` stand its own options alone, "
            f"such as --runner=DataflowRunner --project=NAME --region=NAME"
        )
    return options


def _count(result: PartResult) -> None:
    """What a runner shows while it works; the card of the dataset has the sums that count."""
    counts = {
        "documents": sum(split.documents for split in result.splits.values()),
        "tokens": sum(split.tokens for split in result.splits.values()),
        "bad_records": len(result.skipped),
        "empty_documents": result.empty,
    }
    for name, count in counts.items():
        beam.metrics.Metrics.counter("jaxllm", name).inc(count)


def _types(function: Callable[..., Any]) -> tuple[TypeAdapter, TypeAdapter]:
    """How the argument and the result of a function are read and written."""
    *arguments, result = get_type_hints(function).values()
    (argument,) = arguments
    return TypeAdapter(argument), TypeAdapter(result)


def _error(key: str | None, problem: str) -> ValueError:
    return ValueError(problem) if key is None else DatasetError(key, problem)


def _index(line: str) -> int:
    return int(line.split("\t", 1)[0])


def _read_lines(file: str) -> list[str]:
    return read_file(as_path(file)).decode().splitlines()


def _write_lines(lines: list[str], file: str) -> None:
    with write_file(as_path(file)) as written:
        written.write("".join(f"{line}\n" for line in lines).encode())
