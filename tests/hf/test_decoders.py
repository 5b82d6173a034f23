"""Every family of decoders computes what transformers computes with the same weights.

B rows, T length, V vocabulary.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import fast

from jaxllm.generation import Generator, Sampling
from jaxllm.hf.weights import tensors
from jaxllm.nn.param import bind

from .published import grad_norms, names, published, read

DECODERS = (
    "gpt2 llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma2 gemma3_text phi3 gpt_neox olmo2 "
    "deepseek_v3"
).split()
CASES = names(*DECODERS)
# One of each kind of cache and of positions; the others differ in what is not cached.
GENERATING = ("deepseek_v3", "gemma3_text", "gpt2", "gpt_neox", "phi3_longrope", "qwen2")
# Variants whose code the others run as well, or slow ones to compile.
SLOW = (
    "deepseek_v3_plain gemma gpt_neox_sequential llama_bias llama_linear phi3_longrope_short "
    "qwen3_moe_unnormalized"
).split()


def by_pace(cases):
    """The cases, some of them for `make test-all` alone."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in cases]


@cache
def answers(name):
    """Weights, (hidden, logits), loss and gradients of a case, and what computed them."""
    case = published(name)
    tokens, mask = case.reference["input_ids"], case.reference["attention_mask"]

    def loss(params):
        model = bind(case.module, params)
        hidden, _ = model.hidden(tokens, segment_ids_BT=mask)
        logits = model.logits(hidden)
        log_p = jax.nn.log_softmax(logits[:, :-1])
        nll = -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)[..., 0]
        is_scored = mask[:, 1:]  # the last of a row has a padded target
        return jnp.sum(nll * is_scored) / jnp.sum(is_scored), (hidden, logits)

    differentiate = fast(jax.value_and_grad(loss, has_aux=True))
    params = case.load()
    (value, outputs), gradients = differentiate(params)
    return params, outputs, float(value), gradients, differentiate


@pytest.mark.parametrize("name", by_pace(CASES))
def test_logits_loss_and_gradients_equal(name):
    case = published(name)
    _, outputs, loss, gradients, _ = answers(name)
    is_real = case.reference["attention_mask"][..., None] > 0
    for key, found in zip(("last_hidden_state", "logits"), outputs, strict=True):
        error = np.abs(np.where(is_real, found, 0) - case.reference[key]).max()
        assert error <= case.noise(key), key
    # A mean of 47 logs, each rounded like the logits.
    assert abs(loss - case.reference["loss"]) <= case.noise("logits")
    found = {
        tensor.name: float(np.linalg.norm(tensor.make().astype(np.float64)))
        for tensor in tensors(gradients, specs=case.specs, rows=case.rows)
    }
    expected = grad_norms(case)
    assert found.keys() == expected.keys()
    for tensor, norm in expected.items():
        # Float32 rounds a norm by up to 3e-6 here; sums that cancel to nothing leave 1e-7.
        assert found[tensor] == pytest.approx(norm, rel=2e-5, abs=1e-6), tensor


@pytest.mark.parametrize("name", ["gpt2", "mixtral"])
def test_adamw_takes_the_same_steps(name):
    case = published(name)
    params, *_, differentiate = answers(name)
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
    state, losses = optimizer.init(params), []
    for _ in range(6):
        (loss, _), gradients = differentiate(params)
        losses.append(float(loss))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    # Adam divides by the root of squares: where a gradient is as small as its rounding, a step of
    # 1e-3 may turn around.
    expected = case.reference["adamw_losses"]
    assert losses[0] - losses[-1] > 0.03
    np.testing.assert_allclose(losses, expected, rtol=0, atol=case.noise("adamw_losses") + 1e-5)


@pytest.mark.parametrize(
    "name",
    [name if name in GENERATING else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
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
