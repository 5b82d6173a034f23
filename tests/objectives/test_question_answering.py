"""B rows, T length."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxllm.nn.param import bind
from jaxllm.objectives import QuestionAnswering, Vocabulary
from tests.hf.compared import check_gradients, check_loss
from tests.hf.published import published

B, T = 3, 6


def test_loss_and_gradients_are_those_of_transformers():
    """On the recorded rows; in one of them the question has no answer."""
    case = published("bert_qa")
    reference = case.reference
    tokens = reference["input_ids"]
    label = np.stack([reference["start_positions"], reference["end_positions"]], axis=-1)
    given = {
        "tokens": tokens,
        "segment_ids": reference["attention_mask"],
        "positions": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape),
        "token_types": reference["token_type_ids"],
        "label": label,
        "loss_mask": np.ones(len(tokens), np.float32),
    }

    def loss(params):
        sums = QuestionAnswering()(bind(case.module, params), given)
        return sums.loss / sums.num_tokens

    options = {"xla_backend_optimization_level": 0}
    found, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=options)(case.load())
    check_loss(case, found)
    check_gradients(case, gradients)


def rows(length):
    return {
        "tokens": np.ones((B, length), np.int32),
        "segment_ids": (np.arange(length) < np.array([[6], [4], [5]])).astype(np.int32),
        "positions": np.zeros((B, length), np.int32),
        "label": np.array([[1, 5], [0, 0], [2, 2]], np.int32),
        "loss_mask": np.array([1, 1, 0], np.float32),
    }


def model(logits):
    def run(tokens, **options):
        return SimpleNamespace(logits=logits)

    run.type_embed = None
    return run


def test_the_loss_is_the_mean_over_both_ends_of_the_scored_rows():
    logits = np.random.default_rng(0).normal(size=(B, T, 2)).astype(np.float32)
    sums = QuestionAnswering()(model(logits), rows(T))
    expected = 0.0
    for row, size in ((0, 6), (1, 4)):
        wide = logits[row, :size].astype(np.float64)
        log_likely = wide - np.log(np.exp(wide).sum(0))
        for end in (0, 1):
            expected -= log_likely[rows(T)["label"][row, end], end] / 2
    # float32 rounding of a sum of four terms
    np.testing.assert_allclose(sums.loss, expected, rtol=1e-6)
    assert sums.nll == sums.loss
    assert sums.num_tokens == 2


def test_it_does_not_matter_how_far_rows_are_filled_up():
    logits = np.random.default_rng(0).normal(size=(B, 2 * T, 2)).astype(np.float32)
    objective = QuestionAnswering()
    short, long = (objective(model(logits[:, :n]), rows(n)) for n in (T, 2 * T))
    assert short.loss == pytest.approx(float(long.loss), rel=1e-6)  # another order of its sum
    found = objective.predict(model(logits), rows(2 * T))["logits"]
    is_text = rows(2 * T)["segment_ids"] > 0
    np.testing.assert_array_equal(found[is_text], logits[is_text])
    assert (found[~is_text] < -1e29).all()


def test_it_reads_rows_as_they_are():
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert QuestionAnswering().arrangement(vocabulary, seed=0) is None
    assert QuestionAnswering().num_ids(vocabulary) == 9
