"""Data that is not there (yet), told apart from data that is wrong."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingData(ValueError):
    """Files that a config names are not there; with those that are, nothing was found wrong."""

    def __init__(self, *problems: ValueError) -> None:
        super().__init__(*problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Missing:
    """Collects what is missing, so that all that is there is looked at before it is told."""

    def __init__(self) -> None:
        self._problems: dict[
            str, ValueError
        ] = {}  # by what they say: a file may be asked for twice

    @contextmanager
    def told_last(self) -> Iterator[None]:
        """What is done inside ends where data is missing, and what follows goes on."""
        try:
            yield
        except MissingData as error:
            self._problems.update((str(problem), problem) for problem in error.problems)

    def tell(self) -> None:
        """Raises MissingData with all that was missing, if anything was."""
        if self._problems:
            raise MissingData(*self._problems.values())
