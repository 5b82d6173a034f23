"""Answers to questions: pieces of the texts that come with them.

T length of a row. A span is a first and a last token of a context, the last one included.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data import Data
from jaxllm.data.examples import ExampleRows
from jaxllm.data.question_rows import QuestionRows
from jaxllm.data.questions import QuestionsConfig
from jaxllm.evaluation import AnswerFigures, Predicted, answer_figures
from jaxllm.objectives import QuestionAnswering
from jaxllm.tasks.base import Task

_COUNT = 20  # likeliest beginnings and ends of a window that are tried with each other, and spans


class Span(NamedTuple):
    """A piece of a context, and the sum of the logits of its beginning and of its end."""

    logit: float
    first: int
    last: int


class Answers(Task):
    """Of each question the piece of its context that answers it, or none."""

    objective: QuestionAnswering
    dataset: QuestionsConfig

    def figures(self, predicted: Sequence[Predicted]) -> AnswerFigures:
        told, right = [], []
        for one in predicted:
            rows = one.source
            assert isinstance(rows, QuestionRows)
            logits: list[list[np.ndarray]] = [[] for _ in range(rows.num_examples)]
            numbers: list[list[int]] = [[] for _ in range(rows.num_examples)]
            for row, logits_T2 in enumerate(one.fields["logits"]):
                example = rows.example_of(row)
                logits[example].append(logits_T2)
                numbers[example].append(row)
            for example in range(rows.num_examples):
                answer = self._answer(logits[example], rows, numbers[example])
                told.append(answer["answer"])
                right.append(rows.answers(example))
        return answer_figures(told, right)

    def summary(
        self, figures: AnswerFigures, data: Data, *, baseline: str | None
    ) -> dict[str, Any]:
        whole = super().summary(figures, data, baseline=baseline)
        return whole | {"told": [f"answers     {figures.describe()}"]}

    def answer(
        self, parts: Sequence[Mapping[str, np.ndarray]], rows: ExampleRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        """The answer, and from which character of the context to which it goes.

        Of a question that has none the answer is empty, its start and end null. Its score is its
        likelihood among the spans that come into question.
        """
        assert isinstance(rows, QuestionRows)
        return self._answer([part["logits"] for part in parts], rows, numbers)

    def _answer(
        self, logits: Sequence[np.ndarray], rows: QuestionRows, numbers: Sequence[int]
    ) -> dict[str, Any]:
        context, places = rows.text(rows.example_of(numbers[0]))
        is_text = places[:, 0] < places[:, 1]
        spans: set[Span] = set()
        none = np.inf
        for logits_T2, row in zip(logits, numbers, strict=True):
            window = rows.window(row)
            of_window = logits_T2[window.place :][: window.stop - window.first]
            found = _spans(
                np.where(is_text[window.first : window.stop, None], of_window, -np.inf),
                longest=self.objective.max_answer_tokens,
            )
            spans |= {Span(logit, window.first + a, window.first + b) for logit, a, b in found}
            # A text has no answer where each of its windows has none.
            none = min(none, float(logits_T2[0].sum(dtype=np.float64)))
        best = sorted(spans, key=lambda span: (-span.logit, span.first, span.last))[:_COUNT]
        tried = [span.logit for span in best]
        if self.dataset.has_unanswerable or not best:
            tried.append(none)
        chosen = int(np.argmax(tried))
        score = float(1 / np.exp(np.asarray(tried) - tried[chosen]).sum())
        if chosen == len(best):
            return {"answer": "", "start": None, "end": None, "score": score}
        start = int(places[best[chosen].first, 0])
        end = int(places[best[chosen].last, 1])
        return {"answer": context[start:end], "start": start, "end": end, "score": score}


def _spans(logits_T2: np.ndarray, *, longest: int) -> Iterator[Span]:
    """Spans of a window, of at most `longest` tokens, of its likeliest beginnings and ends.

    logits_T2: of the window's tokens alone; -inf where nothing begins or ends.
    """
    firsts, lasts = np.argsort(-logits_T2.astype(np.float64), axis=0, kind="stable")[:_COUNT].T
    for first in firsts.tolist():
        for last in lasts.tolist():
            logit = float(logits_T2[first, 0]) + float(logits_T2[last, 1])
            if first <= last < first + longest and np.isfinite(logit):
                yield Span(logit, first, last)
