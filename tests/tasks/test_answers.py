"""The answer is the best span of all windows, or none."""

import jax
import numpy as np
import pytest

from jaxllm.data.example_record import ExampleRecord
from jaxllm.data.example_table import table_of
from jaxllm.data.questions import QuestionsConfig
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.evaluation import Predicted
from jaxllm.generation import BeamSearch
from jaxllm.objectives import QuestionAnswering
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.tasks.answers import Answers

CONTEXT = "In 1990 they had 1,200 ships, and in 1991 none."
LENGTH = 24


def dataset(**options):
    given = {"source": {"type": "squad", "paths": ["a.json"]}, "overlap": 6, **options}
    return QuestionsConfig.model_validate(given)


def task(*, max_answer_tokens=30, **options):
    return Answers(
        QuestionAnswering(max_answer_tokens=max_answer_tokens),
        None,
        dataset=dataset(**options),
        tokenizer=ByteTokenizer(),
        layout=ParallelConfig(layout="replicated").build(jax.devices()[:1]),
        rows=4,
        length=LENGTH,
        search=BeamSearch(),
    )


def rows_of(*answers):
    given = dataset(has_unanswerable=True)
    fields = [{"text": one, "answer_start": CONTEXT.index(one)} for one in answers if one]
    examples = [
        given.encode(
            ExampleRecord({"question": "When?", "context": CONTEXT, "answers": told}, "a:1"),
            ByteTokenizer(),
        )[0]
        for told in ([[one] for one in fields] or [[]])
    ]
    return given.rows(table_of(examples), LENGTH, tokenizer=ByteTokenizer())


def logits_of(rows, spans, *, seed=0):
    """Noise, and of each (first character, end, logit) that in each window that has it whole.

    The character None is the first token of a row, which means no answer.
    """
    logits = np.random.default_rng(seed).normal(size=(rows.num_rows, LENGTH, 2))
    for row in range(rows.num_rows):
        window = rows.window(row)
        for first, end, logit in spans:
            if first is None:
                logits[row, 0] = logit / 2
            elif window.first <= first and end <= window.stop:
                place = window.place - window.first
                logits[row, place + first, 0] = logits[row, place + end - 1, 1] = logit / 2
    return logits.astype(np.float32)


def asked(doing, rows, logits):
    numbers = range(rows.num_rows)
    return doing.answer([{"logits": logits[row]} for row in numbers], rows, numbers)


@pytest.mark.parametrize("text", ["1990", "1,200 ships", "none."])
def test_the_best_span_of_all_windows_is_told(text):
    rows = rows_of(text)
    assert rows.num_rows > 3
    start = CONTEXT.index(text)
    found = asked(task(), rows, logits_of(rows, [(start, start + len(text), 20.0)]))
    assert found["answer"] == text
    assert CONTEXT[found["start"] : found["end"]] == text
    assert 0.9 < found["score"] <= 1


def test_a_span_that_is_too_long_is_not_told():
    rows = rows_of("1990")
    logits = logits_of(rows, [(17, 28, 40.0), (3, 7, 20.0)])
    assert asked(task(), rows, logits)["answer"] == "1,200 ships"
    assert asked(task(max_answer_tokens=10), rows, logits)["answer"] != "1,200 ships"


def test_an_end_before_the_beginning_and_a_question_are_no_answer():
    rows = rows_of("1990")
    logits = logits_of(rows, [(3, 7, 20.0)])
    window = rows.window(0)
    logits[:, 1 : window.place - 1] = 50.0  # the question
    logits[0, window.place + 10, 0] = logits[0, window.place, 1] = 12.0
    assert asked(task(), rows, logits)["answer"] == "1990"


def test_no_answer_is_told_where_every_window_says_so():
    rows = rows_of("1990")
    span, none = (3, 7, 20.0), (None, None, 30.0)
    logits = logits_of(rows, [span, none])
    assert asked(task(), rows, logits)["answer"] == "1990"  # each question has an answer
    found = asked(task(has_unanswerable=True), rows, logits)
    assert (found["answer"], found["start"], found["end"]) == ("", None, None)
    assert 0.9 < found["score"] <= 1
    logits[0, 0] = -10.0  # the window that has it
    assert asked(task(has_unanswerable=True), rows, logits)["answer"] == "1990"


def test_figures_are_of_questions_and_not_of_windows():
    rows = rows_of("1990", "1,200 ships")
    half = rows.num_rows // 2
    logits = logits_of(rows, [(3, 7, 20.0)])
    figures = task().figures([Predicted(None, {"logits": logits}, rows)])
    assert (figures.exact_match, figures.f1) == (0.5, 0.5)
    other = logits_of(rows, [(17, 28, 20.0)])
    logits[half:] = other[half:]
    figures = task().figures([Predicted(None, {"logits": logits}, rows)])
    assert (figures.exact_match, figures.f1) == (1, 1)
