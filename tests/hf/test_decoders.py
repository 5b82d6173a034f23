"""Every family of decoders computes what transformers computes with the same weights.

B rows, T length, V vocabulary.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.generation import Generator, Sampling
from jaxllm.hf.registry import families
from jaxllm.hf.weights import tensors
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.param import bind

from .compared import check_adamw_losses, check_gradients, check_loss, check_outputs
from .published import names, published, read

DECODERS = [name for name, family in families().items() if family.config_type is DecoderConfig]
CASES = names(*DECODERS)
# One of each kind of cache and of positions; the others differ in what is not cached.
GENERATING = ("deepseek_v3", "gemma3_text", "gpt2", "gpt_neox", "phi3_longrope", "qwen2")
# Dense and sparse blocks.
CURVES = ("gpt2", "mixtral")
# Variants whose code the others run as well, or slow ones to compile.
SLOW = (
    "deepseek_v3_plain gemma gpt_neox_sequential llama_bias llama_linear phi3_longrope_short "
    "qwen3_moe_unnormalized"
).split()


def by_pace(cases, *, fast=None):
    """The cases; those of SLOW, or all but the fast ones, for `make test-all` alone."""
    slow = SLOW if fast is None else set(cases) - set(fast)
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in cases]


@cache
def answers(name):
    """Weights, outputs, loss and gradients of a case, and what computed them."""
    case = published(name)
    tokens, mask = case.reference["input_ids"], case.reference["attention_mask"]

    def loss(params):
        model = bind(case.module, params)
        hidden, _ = model.hidden(tokens, segment_ids_BT=mask)
        logits = model.logits(hidden)
        log_p = jax.nn.log_softmax(logits[:, :-1])
        nll = -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
        is_scored = mask[:, 1:]  # the last of a row has a padded target
        return jnp.sum(nll * is_scored) / jnp.sum(is_scored), {
            "last_hidden_state": hidden,
            "logits": logits,
        }

    differentiate = fast(jax.value_and_grad(loss, has_aux=True))
    params = case.load()
    (value, outputs), gradients = differentiate(params)
    return params, outputs, float(value), gradients, differentiate


@pytest.mark.parametrize("name", by_pace(CASES))
def test_logits_states_loss_and_gradients_equal(name):
    case = published(name)
    _, outputs, loss, gradients, _ = answers(name)
    check_outputs(case, outputs, dict.fromkeys(outputs, case.reference["attention_mask"]))
    check_loss(case, loss)
    check_gradients(case, gradients)


@pytest.mark.parametrize("name", by_pace(CASES, fast=CURVES))
def test_adamw_takes_the_same_steps(name):
    params, *_, differentiate = answers(name)
    check_adamw_losses(published(name), params, differentiate)


@pytest.mark.parametrize("name", by_pace(CASES, fast=GENERATING))
def test_greedy_texts_equal(name):
    case = published(name)
    lengths = case.reference["greedy_prompt_lengths"]
    prompts = [
        row[:length].tolist()
        for row, length in zip(case.reference["greedy_prompts"], lengths, strict=True)
    ]
    generator = Generator(
        case.module,
        vocab_size=case.config.vocab_size,
        stop_ids=(case.config.vocab_size,),  # never drawn: texts have their whole length
        sampling=Sampling(temperature=0.0, max_tokens=16),
    )
    assert generator(case.load(), prompts) == case.reference["greedy"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_names_and_bits_come_back(name):
    case = published(name)
    back = {
        tensor.name: tensor.make()
        for tensor in tensors(case.load(), specs=case.specs, rows=case.rows)
    }
    assert back.keys() == case.theirs.keys()
    for tensor, values in case.theirs.items():
        np.testing.assert_array_equal(back[tensor], values, err_msg=tensor)


@pytest.mark.parametrize("name", CASES)
def test_configs_come_back(name):
    case = published(name)
    assert case.family.read_config(case.family.write_config(case.config)) == case.config
    assert not case.family.misfits(case.config)


@pytest.mark.parametrize("name", [name for name in CASES if read(name, "config_legacy.json")])
def test_older_keys_say_the_same(name):
    case = published(name)
    assert case.family.read_config(read(name, "config_legacy.json")) == case.config
