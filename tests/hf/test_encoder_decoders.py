"""Marian and T5 compute what transformers computes with the same weights.

V vocabulary.
"""

from functools import cache

import jax
import numpy as np
import pytest
from tiny import fast

from jaxllm.generation.translate import Translator
from jaxllm.hf.registry import family_of
from jaxllm.hf.weights import tensors
from jaxllm.nn.param import bind
from jaxllm.objectives import Seq2Seq
from jaxllm.objectives.teacher_forcing import decoder_tokens

from .compared import (
    check_adamw_losses,
    check_gradients,
    check_loss,
    check_outputs,
    remembering,
)
from .published import names, published, read

CASES = names("t5", "marian")
# Variants whose code the others run as well.
SLOW = {
    "answers": ("marian_swish",),
    "curves": ("marian_swish", "t5", "t5_v1_1"),
    "texts": ("marian_swish", "t5"),
}


def by_pace(kind):
    """The cases, some of them for `make test-all` alone."""
    is_slow = [name in SLOW[kind] for name in CASES]
    return [
        pytest.param(name, marks=pytest.mark.slow) if slow else name
        for name, slow in zip(CASES, is_slow, strict=True)
    ]


@cache
def answers(name):
    """Weights, outputs, the objective's loss, its gradients, and what computed them."""
    case = published(name)
    labels, given = case.reference["labels"], case.reference["decoder_input_ids"]
    is_scored = labels >= 0
    targets = np.where(is_scored, labels, case.config.padding_id or 0)  # there they are -100
    read = decoder_tokens(targets, start_id=case.config.start_id)
    np.testing.assert_array_equal(np.where(is_scored, read, 0), np.where(is_scored, given, 0))
    batch = {
        "encoder_tokens": case.reference["input_ids"],
        "encoder_mask": case.reference["attention_mask"],
        "targets": targets,
        "loss_mask": is_scored,
    }

    def loss(params):
        model, memories, states, logits = bind(case.module, params), [], [], []
        model.encode = remembering(model.encode, memories)
        model.hidden = remembering(model.hidden, states)
        model.logits = remembering(model.logits, logits)
        sums = Seq2Seq()(model, batch)
        return sums.loss / sums.num_tokens, {
            "logits": logits[0],
            "last_hidden_state": states[0],
            "encoder_last_hidden_state": memories[0].x_BSD,
        }

    differentiate = fast(jax.value_and_grad(loss, has_aux=True))
    params = case.load()
    (value, outputs), gradients = differentiate(params)
    return params, outputs, float(value), gradients, differentiate


@pytest.mark.parametrize("name", by_pace("answers"))
def test_logits_states_loss_and_gradients_equal(name):
    """Gradients of 0, too, where torch has a buffer, and none of lookups of Marian's padding."""
    case = published(name)
    _, outputs, loss, gradients, _ = answers(name)
    masks = dict.fromkeys(("logits", "last_hidden_state"), case.reference["labels"] + 1)
    masks["encoder_last_hidden_state"] = case.reference["attention_mask"]
    check_outputs(case, outputs, masks)
    check_loss(case, loss)
    check_gradients(case, gradients)


@pytest.mark.parametrize("name", by_pace("curves"))
def test_adamw_takes_the_same_steps(name):
    """Marian's bias of the outputs stays: theirs is no parameter, ours has no gradient."""
    params, *_, differentiate = answers(name)
    check_adamw_losses(published(name), params, differentiate)


@pytest.mark.parametrize("name", by_pace("texts"))
def test_greedy_texts_equal(name):
    case = published(name)
    sources = [
        row[:length].tolist()
        for row, length in zip(
            case.reference["greedy_prompts"], case.reference["greedy_prompt_lengths"], strict=True
        )
    ]
    translator = Translator(case.module, vocab_size=case.config.vocab_size, max_tokens=16)
    assert translator(case.load(), sources) == case.reference["greedy"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_names_bits_and_configs_come_back(name):
    case = published(name)
    back = {
        tensor.name: tensor.make()
        for tensor in tensors(case.load(), specs=case.specs, rows=case.rows)
    }
    assert back.keys() == case.theirs.keys()
    for tensor, values in case.theirs.items():
        np.testing.assert_array_equal(back[tensor], values, err_msg=tensor)
    assert case.family.read_config(case.family.write_config(case.config)) == case.config
    assert not case.family.misfits(case.config)
    older = read(name, "config_legacy.json")
    assert older is None or case.family.read_config(older) == case.config


def change(name, **changes):
    raw = {key: value for key, value in (read(name) | changes).items() if value is not None}
    return family_of(raw, name="config.json").read_config(raw)


def test_keys_of_the_hub():
    """What t5-small and opus-mt-en-de say beside what version 5 does."""
    t5 = change("t5", n_positions=512, output_past=True, num_decoder_layers=None)
    assert t5.stack_depths == (3, 3)
    assert t5.max_length == 512
    published_marian = {
        "normalize_before": False,
        "normalize_embedding": False,
        "add_final_layer_norm": False,
        "static_position_embeddings": True,
        "add_bias_logits": False,
        "bad_words_ids": [[96]],
        "num_hidden_layers": 3,
        "_num_labels": 3,
    }
    assert change("marian", **published_marian) == published("marian").config


def test_an_untied_t5_that_version_5_wrote():
    """It calls every T5 tied, but scales the outputs only of those that are."""
    config = change("t5_v1_1", tie_word_embeddings=True)
    assert config == published("t5_v1_1").config
    assert not config.is_tied


def test_copies_of_tied_tensors_are_left_unread():
    for name, copies in {
        "t5": ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        "marian": ("lm_head.weight", "model.encoder.embed_positions.weight"),
    }.items():
        case = published(name)
        theirs = case.theirs | dict.fromkeys(copies, np.zeros(1))
        jax.tree.map(np.testing.assert_array_equal, case.load(theirs), case.load())


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("marian", {"normalize_before": True}, "normalize_before=True cannot be expressed"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        ("marian", {"decoder_vocab_size": 50}, "decoder_vocab_size=50"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "feed_forward_proj='gated-mish'"),
        ("t5", {"dense_act_fn": "gelu"}, "dense_act_fn='gelu' cannot be expressed"),
        ("t5", {"novelty": 3}, "mean nothing here: novelty=3"),
    ],
)
def test_what_cannot_be_expressed_is_named(name, changes, message):
    with pytest.raises(ValueError, match=message):
        change(name, **changes)
