"""BERT with both heads of its pretraining computes what transformers computes.

What is expected is recorded in tests/golden/hf_pretraining, by scripts/hf_pretraining_reference.py.
"""

import json

import jax
import numpy as np
import pytest
from tiny import fast

from jaxllm.hf.model import load_model, save_model
from jaxllm.hf.registry import family_that_expresses
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import tensors
from jaxllm.nn.param import bind

from .published import grad_norms, published

# Norms of float32 gradients are good to 1e-6. A term that is wrong or missing shows in percents.
GRADIENT = 1e-4


@pytest.fixture
def case():
    return published("../hf_pretraining/bert")


def cross_entropy(logits, labels):
    """The mean over the labels that count; -100 is none."""
    is_counted = labels >= 0
    log_p = jax.nn.log_softmax(logits)
    picked = np.where(is_counted, labels, 0)[..., None]
    found = jax.numpy.take_along_axis(log_p, picked, -1)[..., 0]
    return -(found * is_counted).sum() / is_counted.sum()


def test_both_logits_their_loss_and_every_gradient(case):
    batch = case.reference

    def loss(params):
        logits = bind(case.module, params)(
            batch["input_ids"],
            segment_ids_BT=batch["attention_mask"],
            token_types_BT=batch["token_type_ids"],
        ).logits
        tokens = cross_entropy(logits.tokens_BTV, batch["labels"])
        return tokens + cross_entropy(logits.next_B2, batch["next_sentence_label"]), logits

    (value, logits), gradients = fast(jax.value_and_grad(loss, has_aux=True))(case.load())
    np.testing.assert_allclose(value, batch["loss"], rtol=1e-6)  # float32 of one program
    real = batch["attention_mask"][..., None]
    outputs = {
        "prediction_logits": logits.tokens_BTV * real,
        "seq_relationship_logits": logits.next_B2,
    }
    for name, values in outputs.items():
        assert np.abs(values - batch[name]).max() <= case.noise(name), name
    found = tensors(gradients, specs=case.specs, rows=case.rows)
    norms = {tensor.name: np.linalg.norm(tensor.make()) for tensor in found}
    expected = grad_norms(case)
    assert norms.keys() == expected.keys()
    for name, norm in expected.items():
        # What softmax forgets has rounding for a gradient: zero is recorded for less than 1e-6.
        np.testing.assert_allclose(norms[name], norm, rtol=GRADIENT, atol=1e-6, err_msg=name)


def test_it_is_saved_as_it_was(case, tmp_path):
    folder = case.write(tmp_path / "model")
    assert family_that_expresses(case.config) is case.family
    save_model(load_model(folder), tmp_path / "saved")
    before, after = read_folder(folder), read_folder(tmp_path / "saved")
    assert before.keys() == after.keys()
    for name, entry in before.items():
        np.testing.assert_array_equal(after[name].array(), entry.array(), err_msg=name)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["architectures"] == ["BertForPreTraining"]
    assert load_model(tmp_path / "saved").config == load_model(folder).config


def test_a_head_that_is_missing_is_an_error(case):
    theirs = dict(case.theirs)
    del theirs["cls.seq_relationship.weight"], theirs["bert.pooler.dense.bias"]
    with pytest.raises(ValueError, match=r"cls\.seq_relationship\.weight: missing") as error:
        case.load(theirs)
    assert "bert.pooler.dense.bias: missing" in str(error.value)


def test_the_second_copy_of_the_embedding_is_left_unread(case):
    extra = {
        "cls.predictions.decoder.weight": case.theirs["bert.embeddings.word_embeddings.weight"]
    }
    extra["cls.predictions.decoder.bias"] = case.theirs["cls.predictions.bias"]
    jax.tree.map(np.testing.assert_array_equal, case.load(case.theirs | extra), case.load())
