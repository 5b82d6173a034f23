"""Tasks of the lm-evaluation-harness: found by name, loaded once, scored as often as asked."""

import difflib
import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.evaluation.harness import TextModel, harness_model, read_decoding
from jaxllm.nn.param import Nested
from jaxllm.parallel import distributed

# As `lm_eval.simple_evaluate` has them: of errors without a formula, and its seeds.
_BOOTSTRAP = 100_000
_SEED, _NUMPY_SEED, _FEWSHOT_SEED = 0, 1234, 1234


class TaskFigure(NamedTuple):
    """One number of one task or group.

    filter: what is taken of an answer; `none` is all. stderr: None where none was computed.
    """

    task: str
    metric: str
    filter: str
    num_fewshot: int | None
    value: float
    stderr: float | None


class Tasks:
    """Tasks with their data, and the model that they are put to."""

    def __init__(
        self, model: TextModel, names: Sequence[str], *, folder: str | Path | None = None
    ) -> None:
        """names, folder: see `find_tasks`.

        ValueError for tasks that do not exist, whose data cannot be had, or that want texts in a
        way in which this model gives none.
        """
        self._model = model
        manager, found = find_tasks(names, folder=folder)
        if not distributed.is_first():  # its data are then where the first one has put them
            distributed.barrier("data of tasks")
        try:
            self._loaded = manager.load([task for name in found for task in _load(manager, name)])
        except (ValueError, OSError) as error:  # OSError: no network, no such file or dataset
            raise ValueError(
                f"tasks {', '.join(found)}: they cannot be loaded: {error}; correct their YAML, "
                "or bring their data to this machine, or leave them out"
            ) from error
        if distributed.is_first():
            distributed.barrier("data of tasks")
        for name, task in self._loaded["tasks"].items():
            if task.OUTPUT_TYPE == "generate_until":
                _check_decoding(name, task.config.generation_kwargs or {}, model)

    def run(
        self,
        params: Nested,
        *,
        num_fewshot: int | None = None,
        limit: int | None = None,
        has_errors: bool = True,
        is_shown: bool = False,
        on_done: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """What `lm_eval.evaluate` returns, on every process, as `simple_evaluate` calls it.

        num_fewshot: solved examples before each, of tasks that do not say 0; None is as they say.
        limit: examples of each task; None is all. has_errors: whether to compute standard errors.
        is_shown: whether a terminal shows how far it is. on_done: called after each batch.
        """
        from lm_eval.evaluator import evaluate

        for task in self._loaded["tasks"].values():
            own = task.get_config("num_fewshot")
            shots = own if num_fewshot is None or own == 0 else num_fewshot
            task.set_config("num_fewshot", shots or 0)
            task.set_fewshot_seed(_FEWSHOT_SEED)
        with _apart(is_shown=is_shown):
            return evaluate(
                lm=harness_model(self._model, params, is_shown=is_shown, on_done=on_done),
                task_dict=self._loaded,
                limit=limit,
                bootstrap_iters=_BOOTSTRAP if has_errors else 0,
                log_samples=False,
            )


def find_tasks(names: Sequence[str], *, folder: str | Path | None = None) -> tuple[Any, list[str]]:
    """A task manager of the harness that knows the tasks, and their names; loads no data.

    names: tasks, groups, tags, or patterns with `*`. folder: of YAML files of tasks, which go
    before those that come with the harness. ValueError for a name that is in neither, and where
    the harness is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            f"tasks {', '.join(names)}: the lm-evaluation-harness is not installed; "
            "pip install 'jaxllm[lm-eval]', or leave the tasks out"
        )
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(
            f"{folder} is not a folder; --include-path (evaluation.tasks_path) is one with YAML "
            "files of tasks"
        )
    from lm_eval.tasks import TaskManager

    path = None if folder is None else str(folder)
    if path is not None:
        manager = TaskManager(include_path=path, include_defaults=False)
        if set(names) <= set(manager.all_subtasks):
            return manager, list(dict.fromkeys(names))
    manager = TaskManager(include_path=path)  # reads ten thousand files, which takes seconds
    found = {match: None for name in names for match in _matches(manager, name)}
    return manager, list(found)


def task_figures(results: Mapping[str, Any]) -> list[TaskFigure]:
    """Every number in what `Tasks.run` returns."""
    found = []
    for task, metrics in results["results"].items():
        for key, value in metrics.items():
            metric, comma, filter_name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr = metrics.get(f"{metric}_stderr,{filter_name}")
            found.append(
                TaskFigure(
                    task=task,
                    metric=metric,
                    filter=filter_name,
                    num_fewshot=results["n-shot"].get(task),
                    value=float(value),
                    stderr=float(stderr) if isinstance(stderr, Real) else None,
                )
            )
    return found


def _matches(manager: Any, name: str) -> list[str]:
    matches = manager.match_tasks([name])
    if not matches:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see lm-eval ls tasks"
        raise ValueError(
            f"no task {name!r} comes with the lm-evaluation-harness, or is in a readable YAML file "
            f"of --include-path (evaluation.tasks_path); {hint}"
        )
    return matches


def _load(manager: Any, name: str) -> list[Any]:
    """The group, the task or the tasks with the tag, their data read or downloaded."""
    loaded = manager.load([name])
    group = loaded["groups"].get(name)
    return list(loaded["tasks"].values()) if group is None else [group]


def _check_decoding(name: str, settings: Mapping[str, Any], model: TextModel) -> None:
    try:
        read_decoding(settings, max_length=model.max_length)
    except ValueError as error:
        raise ValueError(f"task {name}: {error}") from None


@contextmanager
def _apart(*, is_shown: bool) -> Iterator[None]:
    """While the harness runs: with its seeds, which nobody else meets, and without processes."""
    from lm_eval.api import task as harness_task

    # It would fork to bootstrap, which can hang a process in which JAX has threads.
    os.environ.setdefault("DISABLE_MULTIPROC", "1")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(_SEED)
    np.random.seed(_NUMPY_SEED)
    progress = harness_task.tqdm
    harness_task.tqdm = partial(progress, disable=None if is_shown else True)
    try:
        yield
    finally:
        harness_task.tqdm = progress
        random.setstate(python_state)
        np.random.set_state(numpy_state)
