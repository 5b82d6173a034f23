"""Figures of classes, and predictions of whole sets. N rows, C classes."""

import jax
import numpy as np
import pytest
from sklearn import metrics
from tiny import fast

from jaxllm.data.validation_rows import ValidationRows
from jaxllm.evaluation import class_figures, make_predict_step, predict_set
from jaxllm.models import EncoderConfig
from jaxllm.nn.param import bind, param_dict
from jaxllm.objectives import SequenceClassification
from jaxllm.parallel.mesh import ParallelConfig

N, C, T = 200, 5, 6


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(0)
    label, told = rng.integers(0, C, N), rng.integers(0, C - 1, N)  # one class is never told
    found = class_figures(label, told, num_classes=C + 1)  # and one never there
    assert found.accuracy == metrics.accuracy_score(label, told)
    for average in ("macro", "micro"):
        expected = metrics.f1_score(label, told, average=average, zero_division=0.0)
        assert getattr(found, f"{average}_f1") == expected
    assert found.matthews == metrics.matthews_corrcoef(label, told)
    expected = metrics.confusion_matrix(label, told, labels=range(C + 1))
    np.testing.assert_array_equal(found.confusion, expected)


def test_figures_by_hand():
    label, told = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    found = class_figures(label, told, num_classes=2)
    # F1 of class 0: precision 1, recall 2/3; of class 1: precision 1/2, recall 1.
    assert found.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2, rel=1e-12)
    assert (found.accuracy, found.micro_f1) == (0.75, 0.75)
    assert found.confusion == [[2, 1], [0, 1]], "true classes in rows"
    assert set(found.record("validation_")) == {
        f"validation_{name}" for name in ("accuracy", "macro_f1", "micro_f1", "matthews")
    }


class Rows:
    """Random rows of labelled texts."""

    fingerprint = "random"

    def __init__(self, num_rows):
        rng = np.random.default_rng(1)
        self.num_rows = num_rows
        self._fields = {
            "tokens": rng.integers(0, 9, (num_rows, T)).astype(np.int32),
            "segment_ids": np.ones((num_rows, T), np.int32),
            "positions": np.tile(np.arange(T, dtype=np.int32), (num_rows, 1)),
            "label": rng.integers(0, 3, num_rows).astype(np.int32),
            "loss_mask": np.ones(num_rows, np.float32),
        }

    def read(self, rows):
        return {name: field[list(rows)] for name, field in self._fields.items()}


@pytest.fixture(scope="module")
def encoder():
    sizes = {"num_layers": 1, "embed_dim": 8, "num_heads": 2, "mlp_dim": 8, "max_length": T}
    config = EncoderConfig(head="sequence", num_labels=3, init_std=0.5, **sizes)
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), 9))
    make = fast(lambda key: param_dict(config.build(key, 9)))
    return bind(model, make(jax.random.key(0)))


def test_filling_of_the_last_batch_changes_nothing(encoder):
    """Whatever the size of a batch, and how it is cut over devices."""
    rows, params = Rows(21), param_dict(encoder)
    found = []
    for size, devices in ((7, 1), (32, 1), (8, 8)):
        layout = ParallelConfig(layout="data").build(jax.devices()[:devices])
        step = make_predict_step(SequenceClassification(), encoder, layout)
        batches = ValidationRows(rows, name="rows", global_batch_size=size)
        seen = []
        one = predict_set(
            step,
            params,
            batches,
            layout=layout,
            rows=size,
            on_batch=lambda seen=seen: seen.append(1),
        )
        assert len(seen) == len(batches) == -(-21 // size)
        found.append(one)
    for one in found:
        assert one.score.num_tokens == 21
        np.testing.assert_array_equal(one.fields["label"], rows.read(range(21))["label"])
        # float32 rounding of sums over another number of rows
        np.testing.assert_allclose(one.fields["logits"], found[0].fields["logits"], atol=1e-5)
        np.testing.assert_allclose(one.score.loss, found[0].score.loss, rtol=1e-5)
        figures = [
            class_figures(each.fields["label"], each.fields["logits"].argmax(-1), num_classes=3)
            for each in (one, found[0])
        ]
        assert figures[0] == figures[1]
    logits, label = found[0].fields["logits"].astype(np.float64), found[0].fields["label"]
    nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(21), label]
    assert found[0].score.loss == pytest.approx(nll.mean(), rel=1e-5)
    assert np.ptp(logits, axis=0).max() > 0.1, "rows that all look alike would prove nothing"
