"""B rows, T length, C classes."""

from types import SimpleNamespace

import jax
import numpy as np

from jaxllm.nn.param import bind
from jaxllm.objectives import TokenClassification, Vocabulary
from tests.hf.compared import check_gradients, check_loss
from tests.hf.published import published


def test_loss_and_gradients_are_those_of_transformers():
    """On the recorded rows, padding and all; the label -100 there is what is not scored here."""
    case = published("bert_token")
    reference = case.reference
    tokens, labels = reference["input_ids"], reference["labels"]
    given = {
        "tokens": tokens,
        "segment_ids": reference["attention_mask"],
        "positions": np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape),
        "token_types": reference["token_type_ids"],
        "label": np.maximum(labels, 0),
        "loss_mask": (labels >= 0).astype(np.float32),
    }

    def loss(params):
        sums = TokenClassification()(bind(case.module, params), given)
        return sums.loss / sums.num_tokens

    options = {"xla_backend_optimization_level": 0}
    found, gradients = jax.jit(jax.value_and_grad(loss), compiler_options=options)(case.load())
    check_loss(case, found)
    check_gradients(case, gradients)


def test_only_scored_words_count():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 5, 3)).astype(np.float32)
    mask = np.array([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0]], np.float32)
    batch = {
        "tokens": np.ones((2, 5), np.int32),
        "segment_ids": np.ones((2, 5), np.int32),
        "positions": np.zeros((2, 5), np.int32),
        "label": rng.integers(0, 3, (2, 5)).astype(np.int32),
        "loss_mask": mask,
    }

    def model(tokens, **options):
        return SimpleNamespace(logits=logits)

    model.type_embed = None
    sums = TokenClassification()(model, batch)
    wide = logits.astype(np.float64)
    log_likely = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    expected = -sum(log_likely[0, t, batch["label"][0, t]] for t in (1, 3))
    # float32 rounding of a sum of two terms
    np.testing.assert_allclose(sums.nll, expected, rtol=1e-6)
    assert sums.loss == sums.nll
    assert sums.num_tokens == 2


def test_it_reads_rows_as_they_are():
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert TokenClassification().arrangement(vocabulary, seed=0) is None
    assert TokenClassification().num_ids(vocabulary) == 9
