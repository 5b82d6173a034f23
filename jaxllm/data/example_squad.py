"""Files of questions about paragraphs, in the nested JSON of SQuAD.

The format is that of https://rajpurkar.github.io/SQuAD-explorer/: articles, of paragraphs, of
questions, of answers.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from jaxllm.data.compression import open_stream
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.documents import expand_paths
from jaxllm.data.example_record import ExampleRecord
from jaxllm.schema import Config

PATHS = "source.paths"


class SquadExamplesConfig(Config):
    """SQuAD's JSON, a record a question, with `id`, `title`, `context`, `question`, `answers`.

    A record is named by the number of its article, paragraph and question, each from 0.
    """

    type: Literal["squad"] = "squad"
    """Kind of source: SQuAD's JSON."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content."""
        return expand_paths(self.paths, key=PATHS)

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order. DatasetError for a file that is not in this format."""
        for path in self.all_files():
            with open_stream(str(path)) as file:
                try:
                    whole = json.loads(file.read())
                except (ValueError, RecursionError) as error:
                    raise DatasetError(PATHS, f"{path}: not a file of JSON: {error}") from error
            yield from _questions(whole, str(path))


def _questions(whole: Any, name: str) -> Iterator[ExampleRecord]:
    for article_name, article in _listed(whole, "data", name):
        for paragraph_name, paragraph in _listed(article, "paragraphs", article_name):
            for where, question in _listed(paragraph, "qas", paragraph_name):
                fields = {name: question[name] for name in ("id", "question") if name in question}
                answers = question.get("answers", [])
                if question.get("is_impossible"):
                    answers = []  # what may stand beside it only looks like an answer
                yield ExampleRecord(
                    {
                        **fields,
                        "title": article.get("title", ""),
                        "context": paragraph.get("context"),
                        "answers": answers,
                    },
                    where,
                )


def _listed(value: Any, field: str, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a list that is a field of an object, each with its place."""
    found = value.get(field) if isinstance(value, Mapping) else None
    if not isinstance(found, list):
        raise DatasetError(PATHS, f"{where}: there is no list {field!r}, as SQuAD's JSON has it")
    for number, one in enumerate(found):
        place = f"{where}:{field}[{number}]"
        if not isinstance(one, Mapping):
            raise DatasetError(PATHS, f"{place} is a {type(one).__name__}, not an object")
        yield place, one
