"""Errors that name the key of a config, and whose dataset it belongs to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jaxllm.data.missing import MissingData

PLAIN_KEY = re.compile(r"[\w-]+")


class DatasetError(ValueError):
    """What is wrong with a dataset, under a key of its config such as `corpus.paths`."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)  # both, so that the error can be sent by a worker
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


@contextmanager
def of_dataset(name: str) -> Iterator[None]:
    """Gives the errors of one dataset their whole key, `data.datasets.NAME...`.

    A name that is no plain key, such as a path given on a command line, stands in no config:
    there the problem alone is told, with that name.
    """
    try:
        yield
    except ValueError as error:
        raise _named(error, name) from error


def _named(error: ValueError, name: str) -> ValueError:
    if isinstance(error, MissingData):
        return MissingData(*(_named(problem, name) for problem in error.problems))
    problem = error.problem if isinstance(error, DatasetError) else str(error)
    if not PLAIN_KEY.fullmatch(name):
        return ValueError(f"dataset {name!r}: {problem}")
    key = f"data.datasets.{name}"
    return DatasetError(f"{key}.{error.key}" if isinstance(error, DatasetError) else key, problem)
