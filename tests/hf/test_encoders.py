"""Encoders compute what transformers computes, with the same weights under the same names.

What is expected is recorded in tests/golden/hf, by scripts/hf_reference.py. B rows, T length.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.hf.registry import family_that_expresses
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.tensor_writer import write_folder
from jaxllm.hf.weights import load, tensors
from jaxllm.models.encoder_config import EncoderConfig
from jaxllm.nn.param import bind

from .compared import (
    check_adamw_losses,
    check_gradients,
    check_loss,
    check_outputs,
    remembering,
)
from .published import published

# One of texts, one of images, one of both; the others run the same code.
CURVES = ("bert_masked_lm", "vit", "clip")


def text(model, batch):
    return model(
        batch["input_ids"],
        segment_ids_BT=batch["attention_mask"],
        token_types_BT=batch.get("token_type_ids"),
    )


def image(model, batch):
    return model(pixels(batch))


def pixels(batch):
    """Theirs have channels first."""
    return jnp.moveaxis(batch["pixel_values"], 1, 3)


def cross_entropy(logits, labels):
    """The mean over the labels that count; -100 is none."""
    is_counted = labels >= 0
    log_p = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_p, jnp.where(is_counted, labels, 0)[..., None], -1)[..., 0]
    return -jnp.sum(picked * is_counted) / jnp.sum(is_counted)


def classes(run):
    def task(model, batch):
        found = run(model, batch)
        loss = cross_entropy(found.logits, batch["labels"])
        return loss, {"logits": found.logits, "last_hidden_state": found.hidden_BTD}

    return task


def pretraining(model, batch):
    found = text(model, batch)
    words, is_other = found.logits.tokens_BTV, found.logits.next_B2
    loss = cross_entropy(words, batch["labels"])
    return loss + cross_entropy(is_other, batch["next_sentence_label"]), {
        "prediction_logits": words,
        "seq_relationship_logits": is_other,
        "last_hidden_state": found.hidden_BTD,
    }


def pooled(run):
    def task(model, batch):
        found = run(model, batch)
        outputs = {"last_hidden_state": found.hidden_BTD, "pooler_output": found.pooled_BP}
        return jnp.mean(jnp.square(found.pooled_BP)), outputs

    return task


def span(model, batch):
    found, names = text(model, batch), ("start", "end")
    scores = {f"{name}_logits": found.logits[..., i] for i, name in enumerate(names)}
    losses = [cross_entropy(scores[f"{name}_logits"], batch[f"{name}_positions"]) for name in names]
    return sum(losses) / 2, scores | {"last_hidden_state": found.hidden_BTD}


def pairs(model, batch):
    texts, images = [], []
    model.text.hidden = remembering(model.text.hidden, texts)
    model.vision.encode = remembering(model.vision.encode, images)
    found = model(batch["input_ids"], pixels(batch), segment_ids_BT=batch["attention_mask"])
    own = jnp.arange(len(found.texts_BP))
    loss = cross_entropy(found.logits_IB, own) + cross_entropy(found.logits_IB.T, own)
    return loss / 2, {
        "logits_per_image": found.logits_IB,
        "text_embeds": found.texts_BP,
        "image_embeds": found.images_IP,
        "text_last_hidden_state": texts[0][0],
        "image_last_hidden_state": images[0],
    }


TASKS = {
    "bert_masked_lm": classes(text),
    "bert_pretraining": pretraining,
    "bert_sequence": classes(text),
    "bert_token": classes(text),
    "bert_qa": span,
    "bert_pooler": pooled(text),
    "roberta_masked_lm": classes(text),
    "roberta_sequence": classes(text),
    "roberta_token": classes(text),
    "roberta_qa": span,
    "roberta_model": pooled(text),
    "vit": classes(image),
    "vit_model": pooled(image),
    "clip": pairs,
    "clip_legacy_eos": pairs,
}


def on_disk(params, case):
    """Our weights, or their gradients, under their names."""
    found = tensors(params, specs=case.specs, rows=case.rows)
    return {tensor.name: tensor.make() for tensor in found}


@pytest.mark.parametrize("name", TASKS)
def test_names_and_bits_survive_the_way_there_and_back(name):
    found = published(name)
    back = on_disk(found.load(), found)
    assert back.keys() == found.theirs.keys()
    for tensor, values in found.theirs.items():
        assert back[tensor].shape == values.shape, tensor
        np.testing.assert_array_equal(back[tensor], values, err_msg=tensor)
    written = found.family.write_config(found.config)
    assert found.family.read_config(written) == found.config
    for key in ("architectures", "model_type"):
        assert written[key] == found.raw[key]


@cache
def differentiated(name):
    """params -> ((loss, outputs), gradients); a program to compile."""
    found, reference = published(name), published(name).reference
    batch = {key: value for key, value in reference.items() if is_input(key, value, reference)}

    def loss(params):
        return TASKS[name](bind(found.module, params), batch)

    return fast(jax.value_and_grad(loss, has_aux=True))


def is_input(key, value, reference):
    """Whether a recorded array is of the batch."""
    return value.dtype in (np.int32, np.float32) and f"noise_{key}" not in reference


@pytest.mark.parametrize("name", TASKS)
def test_outputs_loss_and_gradients_are_those_of_transformers(name):
    found = published(name)
    (loss, outputs), gradients = differentiated(name)(found.load())
    mask_BT = found.reference.get("attention_mask", np.ones(1))
    # What has one number a row or image is never padded, and images are not.
    masks = {key: mask_BT for key, values in outputs.items() if values.shape[:2] == mask_BT.shape}
    check_outputs(found, outputs, masks)
    check_loss(found, loss)
    check_gradients(found, gradients)


@pytest.mark.parametrize(
    "name",
    [name if name in CURVES else pytest.param(name, marks=pytest.mark.slow) for name in TASKS],
)
def test_adamw_takes_the_same_steps(name):
    found = published(name)
    check_adamw_losses(found, found.load(), differentiated(name))


def test_what_checkpoints_have_beside_their_network_is_left_unread():
    """bert-base-uncased and roberta-base are files of this kind."""
    extra = {
        "bert_masked_lm": (
            "bert.embeddings.position_ids",
            "bert.pooler.dense.weight",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
            "cls.seq_relationship.weight",
        ),
        "bert_pretraining": ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
        "bert_token": ("bert.pooler.dense.bias",),
        "bert_pooler": ("embeddings.position_ids",),
        "roberta_masked_lm": ("roberta.pooler.dense.weight", "lm_head.decoder.bias"),
        "roberta_sequence": ("roberta.pooler.dense.weight",),
        "clip": ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
    }
    for name, tensors_beside in extra.items():
        found = published(name)
        theirs = found.theirs | dict.fromkeys(tensors_beside, np.zeros(3, np.float32))
        jax.tree.map(np.testing.assert_array_equal, found.load(theirs), found.load())


def test_norms_may_have_the_names_of_tensorflow():
    found = published("bert_masked_lm")
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def old(name):
        for new, before in older.items():
            name = name.replace(new, before)
        return name

    names = [old(name) for name in found.theirs]
    assert names != list(found.theirs)
    assert list(found.family.present_names(names).values()) == list(found.theirs)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert_pooler", "pooler.dense.weight"),
        ("bert_sequence", "bert.pooler.dense.bias"),
        ("bert_pretraining", "bert.pooler.dense.weight"),
        ("bert_pretraining", "cls.seq_relationship.bias"),
        ("vit_model", "pooler.dense.weight"),
    ],
)
def test_a_pooler_or_head_that_is_missing_is_an_error(name, tensor):
    found = published(name)
    theirs = {key: values for key, values in found.theirs.items() if key != tensor}
    with pytest.raises(ValueError, match=f"{tensor}: missing"):
        found.load(theirs)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert_qa", {"architectures": ["BertForMultipleChoice"]}, "names BertForMultipleChoice"),
        ("bert_qa", {"id2label": {"0": "a", "1": "b", "2": "c"}}, "3 labels"),
        ("bert_qa", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert_qa", {"is_decoder": True}, "is_decoder=True"),
        ("bert_masked_lm", {"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ("bert_masked_lm", {"embedding_size": 8}, "embedding_size=8"),
        ("roberta_model", {"pad_token_id": None}, "pad_token_id=null"),
        ("vit", {"image_size": [24, 32]}, r"image_size=\[24, 32\]"),
        ("vit_model", {"pooler_output_size": 8}, "pooler_output_size=8"),
        ("clip", {"vision_config": {"patch_size": [8, 8]}}, "vision_config of config.json"),
        ("clip", {"text_config": {"new": 1}}, "text_config of config.json has keys .*new=1"),
    ],
)
def test_what_cannot_be_expressed_is_refused(name, changes, message):
    found = published(name)
    with pytest.raises(ValueError, match=message):
        found.family.read_config(found.raw | changes)


def test_configs_of_other_versions_mean_the_same():
    found = published("bert_pooler")
    unnamed = {key: value for key, value in found.raw.items() if key != "architectures"}
    assert found.family.read_config(unnamed) == found.config
    usual = {"position_embedding_type": "absolute", "gradient_checkpointing": False}
    assert found.family.read_config(found.raw | usual) == found.config
    found = published("bert_sequence")
    counted = {key: value for key, value in found.raw.items() if "label" not in key}
    assert found.family.read_config(counted | {"num_labels": 4}) == found.config
    assert found.family.read_config(counted).num_labels == 2
    found = published("clip")
    text, vision = found.raw["text_config"], found.raw["vision_config"]
    twice = {"text_config": {}, "vision_config": {"top_k": 50, "torchscript": False} | vision}
    twice |= {"text_config_dict": text, "vision_config_dict": None}
    assert found.family.read_config(found.raw | twice) == found.config


def test_an_export_chooses_the_family_that_says_it_all():
    for name in TASKS:
        found = published(name)
        assert family_that_expresses(found.config) is found.family
    with pytest.raises(ValueError, match=r"bert: head=none"):
        family_that_expresses(EncoderConfig(vocab_size=97, head="none"))
    with pytest.raises(ValueError, match=r"bert: .*type_vocab_size=0"):
        family_that_expresses(EncoderConfig(vocab_size=97, num_token_types=0))


def test_a_number_without_dimensions_survives_a_file(tmp_path):
    found = published("clip")
    written = tensors(found.load(), specs=found.specs, rows=found.rows)
    write_folder(tmp_path, written, dtype=np.dtype(np.float32))
    entries = read_folder(tmp_path)
    assert entries["logit_scale"].shape == ()
    params = load(entries, folder=tmp_path, specs=found.specs, rows=found.rows)
    assert params["log_scale"] == found.theirs["logit_scale"]
