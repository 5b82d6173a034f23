"""B rows, T length, C classes."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.objectives import SequenceClassification, Vocabulary
from tests.hf.published import LOSSES, published

from .sequences import check_it_is_theirs

B, T, C = 6, 5, 4


def batch(**changes):
    rng = np.random.default_rng(0)
    fields = {
        "tokens": rng.integers(0, 9, (B, T)).astype(np.int32),
        "segment_ids": np.ones((B, T), np.int32),
        "positions": np.tile(np.arange(T, dtype=np.int32), (B, 1)),
        "label": np.array([0, 3, 1, 1, 2, 0], np.int32),
        "loss_mask": np.array([1, 1, 0, 1, 1, 0], np.float32),
    }
    return {**fields, **changes}


def test_loss_and_gradients_are_those_of_transformers():
    """Through the objective, on the rows that were recorded: a pair's types, padding and all."""
    check_it_is_theirs(SequenceClassification(), published("bert_sequence"))


def test_of_any_number_of_classes_they_are_those_of_transformers():
    case = published("bert_multi_label", golden=LOSSES)
    assert 0 < case.reference["labels"].mean() < 1
    check_it_is_theirs(SequenceClassification(is_multi_label=True), case)


def test_answers_of_any_size_have_a_finite_loss():
    """Yes and no to each class; a mean over them, of rows that are scored."""
    logits = np.array([[500.0, -500.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    flags = np.array([[0, 1], [1, 0], [0, 0]], np.float32)
    mask = np.array([1, 1, 0], np.float32)
    objective = SequenceClassification(is_multi_label=True)
    given = {"label": flags, "loss_mask": mask}

    def loss(logits):
        return objective.sums({"logits": logits}, given).loss

    found, gradients = jax.value_and_grad(loss)(jnp.asarray(logits))
    second = (np.log(2) + np.log1p(np.exp(2.0))) / 2
    np.testing.assert_allclose(found, 500 + second, rtol=1e-6)  # float32 rounding
    assert np.isfinite(gradients).all()
    np.testing.assert_array_equal(gradients[2], 0)


def model(logits, called, *, type_embed=None):
    def run(tokens, **options):
        called.update(options, tokens=tokens)
        return SimpleNamespace(logits=logits)

    run.type_embed = type_embed
    return run


def test_only_scored_rows_count():
    logits = np.random.default_rng(1).normal(size=(B, C)).astype(np.float32)
    called, given = {}, batch()
    sums = SequenceClassification()(model(logits, called), given, keys_B="keys")
    wide = logits.astype(np.float64)
    nll = np.log(np.exp(wide).sum(-1)) - wide[np.arange(B), given["label"]]
    # float32 rounding of a sum of four terms
    np.testing.assert_allclose(sums.nll, nll[given["loss_mask"] > 0].sum(), rtol=1e-6)
    assert sums.loss == sums.nll
    assert sums.num_tokens == 4
    assert called["keys_B"] == "keys"
    np.testing.assert_array_equal(called["segment_ids_BT"], given["segment_ids"])
    np.testing.assert_array_equal(called["positions_BT"], given["positions"])


def test_types_reach_a_model_that_has_them():
    types = np.ones((B, T), np.int32)
    for type_embed, expected in ((object(), types), (None, None)):
        called = {}
        SequenceClassification()(
            model(jnp.zeros((B, C)), called, type_embed=type_embed), batch(token_types=types)
        )
        assert called["token_types_BT"] is expected
    called = {}
    SequenceClassification()(model(jnp.zeros((B, C)), called, type_embed=object()), batch())
    assert called["token_types_BT"] is None


def test_it_predicts_without_labels():
    logits = np.random.default_rng(1).normal(size=(B, C)).astype(np.float32)
    rows = {name: field for name, field in batch().items() if name not in ("label", "loss_mask")}
    found = SequenceClassification().predict(model(logits, {}), rows)
    np.testing.assert_array_equal(found["logits"], logits)


def test_it_reads_rows_as_they_are():
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert SequenceClassification().arrangement(vocabulary, seed=0) is None
    assert SequenceClassification().num_ids(vocabulary) == 9
