"""Datasets of questions that are answered by a piece of a given text."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from jaxllm.data.batch import Shapes
from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_frame import frame_of
from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import ColumnKind, Encoded, Table
from jaxllm.data.examples import ExamplesConfig
from jaxllm.data.question_rows import NO_ANSWER, QuestionRows, question_shapes
from jaxllm.data.token_places import encode_placed
from jaxllm.data.tokenizer import Tokenizer


class Answer(NamedTuple):
    """A piece of a context, and the character that it begins with."""

    text: str
    start: int


class QuestionsConfig(ExamplesConfig):
    """Questions about a text, and where in it their answers stand."""

    type: Literal["questions"] = "questions"
    """Kind of dataset: questions that a piece of a text answers."""
    question: str = "question"
    """Field of the question."""
    context: str = "context"
    """Field of the text that has the answer."""
    answers: str = "answers"
    """Field of the answers: a list of objects with `text` and `answer_start`, a character, or one
    object with lists of both. The first one is learned, any of them is right."""
    has_unanswerable: bool = False
    """Whether a question may be without an answer, and a model may give none."""
    overlap: int = Field(default=128, ge=0)
    """Tokens of a context that is longer than a row that two rows next to each other share; at most
    half of what they hold."""

    columns: ClassVar[Mapping[str, ColumnKind]] = {
        "question": "tokens",
        "tokens": "tokens",
        "places": "int32",
        "text": "uint8",
        "label": "int32",
        "label_texts": "uint8",
    }
    """What is kept: see `QuestionRows`."""
    read_only: ClassVar[frozenset[str]] = frozenset({"overlap"})

    def texts(self, record: ExampleRecord) -> list[str]:
        question = record.text(self.question, key="question")
        return [question, record.text(self.context, key="context")]

    def encode(
        self, record: ExampleRecord, tokenizer: Tokenizer, *, is_labelled: bool = True
    ) -> list[Encoded]:
        question, context = self.texts(record)
        ids, places = encode_placed(tokenizer, context)
        fields = {
            "question": tokenizer.encode(question),
            "tokens": ids,
            "places": places.ravel().astype(np.int32),
            "text": np.frombuffer(context.encode("utf-8"), np.uint8),
        }
        if not is_labelled:
            return [fields]
        answers = self._answers(record, context)
        label = self._tokens_of(record, answers[0], places) if answers else NO_ANSWER
        texts = json.dumps([answer.text for answer in answers]).encode()
        return [
            {
                **fields,
                "label": np.asarray(label, np.int32),
                "label_texts": np.frombuffer(texts, np.uint8),
            }
        ]

    def rows(self, table: Table, length: int, *, tokenizer: Tokenizer) -> QuestionRows:
        frame = frame_of(tokenizer, num_texts=2)
        return QuestionRows(table, length, frame=frame, overlap=self.overlap)

    def shapes(self, rows: int, length: int) -> Shapes:
        return question_shapes(rows, length)

    def _answers(self, record: ExampleRecord, context: str) -> list[Answer]:
        """The answers of a record, each of which stands where it says."""
        value = record.value(self.answers, key="answers")
        if isinstance(value, Mapping):
            texts, starts = (_list(value.get(name)) for name in ("text", "answer_start"))
            if len(texts) != len(starts):
                raise self._error(record, f"{len(texts)} texts, but {len(starts)} answer_start")
            pairs = list(zip(texts, starts, strict=True))
        else:
            told = record.objects(self.answers, key="answers")
            pairs = [(one.get("text"), one.get("answer_start")) for one in told]
        if not pairs and not self.has_unanswerable:
            raise self._error(
                record, "there is none; leave the record out, or set `has_unanswerable`"
            )
        return [self._answer(record, context, *pair) for pair in pairs]

    def _answer(self, record: ExampleRecord, context: str, text: Any, start: Any) -> Answer:
        if not isinstance(text, str) or not text.strip():
            raise self._error(record, f"{text!r} is no text")
        is_place = isinstance(start, int) and not isinstance(start, bool) and start >= 0
        if not is_place or not context.startswith(text, start):
            there = context[start : start + len(text)] if is_place else ""
            found = context.find(text)
            advice = f"it begins at {found}" if found >= 0 else f"it is nowhere in {self.context!r}"
            raise self._error(
                record, f"{text!r} is not at answer_start={start!r} but {there!r} is; {advice}"
            )
        return Answer(text, start)

    def _tokens_of(
        self, record: ExampleRecord, answer: Answer, places: np.ndarray
    ) -> tuple[int, int]:
        """The first and the last token that have a character of an answer."""
        start, stop = answer.start, answer.start + len(answer.text)
        is_of_answer = (
            (places[:, 0] < stop) & (places[:, 1] > start) & (places[:, 0] < places[:, 1])
        )
        tokens = np.flatnonzero(is_of_answer)
        if not len(tokens):
            raise self._error(record, f"the tokenizer makes nothing of {answer.text!r}")
        return int(tokens[0]), int(tokens[-1])

    def _error(self, record: ExampleRecord, problem: str) -> DatasetError:
        return DatasetError("answers", f"{record.where}: {self.answers!r}: {problem}")


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
