"""B rows, T target length, V vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxllm.objectives import Seq2Seq

ROWS, SOURCE, TARGET, V = 6, 5, 7, 11


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    lengths = np.array([7, 3, 1, 0, 5, 7])
    return {
        "encoder_tokens": random.integers(0, V, (ROWS, SOURCE)),
        "encoder_mask": np.ones((ROWS, SOURCE), np.float32),
        "targets": random.integers(0, V, (ROWS, TARGET)),
        "loss_mask": (np.arange(TARGET) < lengths[:, None]).astype(np.float32),
    }


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_share_of_each_target_is_spread_over_all_ids(batch, smoothing):
    logits = np.random.default_rng(1).normal(size=(ROWS, TARGET, V)).astype(np.float32)

    def model(*given, **options):
        return logits

    model.config = SimpleNamespace(start_id=0)
    objective = Seq2Seq(label_smoothing=smoothing)
    sums = objective(model, batch)
    log_probs = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    is_target = np.eye(V)[batch["targets"]]
    is_scored = batch["loss_mask"] > 0
    wanted = (1 - smoothing) * is_target + smoothing / V
    # float32 rounding of sums of dozens of terms
    found = -np.sum(wanted * log_probs, axis=-1)[is_scored].sum()
    np.testing.assert_allclose(sums.loss, found, rtol=1e-5)
    nll = -np.sum(is_target * log_probs, axis=-1)[is_scored].sum()
    np.testing.assert_allclose(sums.nll, nll, rtol=1e-5)
    assert sums.num_tokens == is_scored.sum()
    told = objective.predict(model, batch)["likeliest"]
    np.testing.assert_array_equal(told, logits.argmax(-1))
