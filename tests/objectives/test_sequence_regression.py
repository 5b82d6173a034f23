"""B rows."""

from types import SimpleNamespace

import numpy as np

from jaxllm.objectives import SequenceRegression, Vocabulary
from tests.hf.published import LOSSES, published

from .sequences import check_it_is_theirs

B, T = 3, 4


def test_loss_and_gradients_are_those_of_transformers():
    check_it_is_theirs(SequenceRegression(), published("roberta_regression", golden=LOSSES))


def test_only_scored_rows_count_and_labels_are_not_needed_to_predict():
    scores = np.array([[1.5], [-1.0], [7.0]], np.float32)

    def model(tokens, **_):
        return SimpleNamespace(logits=scores)

    model.type_embed = None
    rows = dict.fromkeys(("tokens", "segment_ids", "positions"), np.zeros((B, T), np.int32))
    found = SequenceRegression().predict(model, rows)
    np.testing.assert_array_equal(found["value"], scores[:, 0])
    labels = {"label": np.array([1, 1, 1], np.float32), "loss_mask": np.array([1, 1, 0])}
    sums = SequenceRegression()(model, rows | labels)
    assert (sums.loss, sums.nll, sums.num_tokens) == (4.25, 4.25, 2)  # exact in binary


def test_it_reads_rows_as_they_are():
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert SequenceRegression().arrangement(vocabulary, seed=0) is None
    assert SequenceRegression().num_ids(vocabulary) == 9
    assert not SequenceRegression().is_likelihood_of_text
