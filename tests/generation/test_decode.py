"""Generation against the uncached network."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import VOCAB, fast

from jaxllm.generation import Generator, Sampling, decode
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

NEVER = VOCAB - 1  # the last id is padding of the vocabulary, so it is never drawn
USED = VOCAB - 4  # ids from here on are padding
NEW = 6
PROMPTS = [[5, 9, 11], [7], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]]
CONFIGS = {
    "rope": tiny.config(qk_norm="head", num_layers=2),
    # 24 positions are fewer than the padded prompt: padding must not reach beyond them.
    "learned": tiny.gpt2(num_layers=2, max_length=24),
    "windows": tiny.gemma(),
    "latent": tiny.deepseek(num_layers=2),
}


def make(name, stop_id=NEVER, layout=None, **sampling):
    return Generator(
        tiny.abstract(CONFIGS[name]),
        vocab_size=USED,
        stop_ids=(stop_id,),
        sampling=Sampling(**({"temperature": 0.0, "max_tokens": NEW} | sampling)),
        layout=layout,
    )


def weights(name):
    """Weights whose likeliest token would often be padding of the vocabulary."""
    params = param_dict(tiny.decoder(CONFIGS[name], seed=1))
    if "out" in params:
        boost = jnp.where(jnp.arange(VOCAB) >= USED, 3.0, 1.0)
        params["out"]["kernel"] = params["out"]["kernel"] * boost
    return params


def uncached_greedy(name, params, prompt):
    """The argmax of the whole network over all tokens so far, one token after the other."""
    decoder = tiny.abstract(CONFIGS[name])
    run = fast(lambda params, tokens: bind(decoder, params)(tokens))
    ids = list(prompt)
    boosted = 0
    for _ in range(NEW):
        padded = np.zeros((1, 24), np.int32)  # what follows is never looked at
        padded[0, : len(ids)] = ids
        logits = np.asarray(run(params, padded))[0, len(ids) - 1]
        boosted += int(np.argmax(logits)) >= USED
        ids.append(int(np.argmax(logits[:USED])))
    return ids[len(prompt) :], boosted


@cache
def greedy(name):
    """(weights, generator, continuations of all prompts in one batch)."""
    generator, params = make(name), weights(name)
    return params, generator, generator(params, PROMPTS)


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name):
    params, _, found = greedy(name)
    results = [uncached_greedy(name, params, prompt) for prompt in PROMPTS]
    assert found == [ids for ids, _ in results]
    if name == "rope":
        assert any(boosted for _, boosted in results)  # padding was likeliest somewhere


@pytest.mark.slow
def test_prompts_of_a_prefix_model_are_seen_as_a_whole():
    config, params = CONFIGS["learned"], weights("learned")
    generator = Generator(
        tiny.abstract(config),
        vocab_size=USED,
        stop_ids=(NEVER,),
        sampling=Sampling(temperature=0.0, max_tokens=NEW),
        has_prefix=True,
    )
    found = generator(params, PROMPTS)
    assert found != greedy("learned")[2], "prompts that are read from left to right"
    decoder = bind(tiny.abstract(config), params)

    @fast
    def logits(tokens_BT, prefix_BT):
        return decoder.logits(decoder.hidden(tokens_BT, prefix_BT=prefix_BT)[0])

    tokens_BT = np.zeros((len(PROMPTS), 24), np.int32)
    lengths_B1 = np.array([[len(prompt)] for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        tokens_BT[row, : len(prompt) + NEW] = prompt + found[row]
    likeliest = np.argmax(logits(tokens_BT, np.arange(24) < lengths_B1)[..., :USED], axis=-1)
    for row, prompt in enumerate(PROMPTS):
        assert likeliest[row, len(prompt) - 1 :][:NEW].tolist() == found[row]


@pytest.mark.parametrize("name", CONFIGS)
def test_prompts_together_equal_each_alone(name):
    params, generator, found = greedy(name)
    assert found == [generator(params, [prompt])[0] for prompt in PROMPTS]


def test_generation_ends_before_the_stop_token():
    params, _, found = greedy("rope")
    stop_id = found[0][3]
    stopped = make("rope", stop_id=stop_id)(params, PROMPTS)
    for before, after in zip(found, stopped, strict=True):
        end = before.index(stop_id) if stop_id in before else NEW
        assert after == before[:end]
    assert len(stopped[0]) <= 3


def test_text_follows_the_seed():
    params, prompts = weights("rope"), [[5, 9]] * 3
    generator = make("rope", temperature=2.0, seed=3)
    text = generator(params, prompts)
    assert text == generator(params, prompts)
    assert text != make("rope", temperature=2.0, seed=4)(params, prompts)
    assert len({tuple(row) for row in text}) == 3  # equal prompts are drawn apart
    assert all(token < USED for row in text for token in row)


def test_compiles_once_for_lengths_of_one_bucket(monkeypatch):
    traces = []
    plain = decode._generate

    def counted(model, params, prompts_BP, *args, **kwargs):
        traces.append(prompts_BP.shape)
        return plain(model, params, prompts_BP, *args, **kwargs)

    monkeypatch.setattr(decode, "_generate", counted)
    generator, params = make("rope", max_tokens=2), weights("rope")
    for length in (1, 7, 32):
        generator(params, [list(range(1, length + 1))])
    assert traces == [(1, 32)]
    generator(params, [list(range(1, 34))])
    assert traces == [(1, 32), (1, 64)]


def test_a_prompt_too_long_for_learned_positions():
    generator = make("learned")
    with pytest.raises(ValueError, match=r"max_tokens is 25, but the model has 24 learned"):
        generator(weights("learned"), [[1] * 19])


def test_sharded_weights_give_the_same_text():
    params, _, found = greedy("rope")
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    model = tiny.abstract(CONFIGS["rope"])
    placed = jax.device_put(params, weight_shardings(layout, spec_dict(model)))
    assert make("rope", layout=layout)(placed, PROMPTS) == found


def test_a_pipelines_weights_give_the_same_text_and_are_never_gathered_whole():
    params, _, found = greedy("rope")
    layout = ParallelConfig(layout="fsdp", stage=2, fsdp=4).build()
    model = tiny.abstract(CONFIGS["rope"])
    placed = jax.device_put(params, weight_shardings(layout, spec_dict(model)))
    generator = make("rope", layout=layout)
    assert generator(placed, PROMPTS) == found
    prompts = np.ones((1, 32), np.int32)
    program = generator._generate.lower(placed, prompts, np.array([1], np.int32)).compile()
    layers, embed, hidden = placed["blocks"]["layers"]["mlp"]["up"]["kernel"].shape
    # Every device holds an eighth of each layer; as much as fsdp alone would leave it is too much.
    assert f"[{layers},{embed // 8},{hidden}]" in program.as_text()
    for pieces in (1, 2, 4):
        assert f"[{layers},{embed // pieces},{hidden}]" not in program.as_text()


def test_texts_stay_on_one_side_of_a_change_of_frequencies():
    """Of LongRoPE: neither padding nor new tokens may bring in the other ones."""

    def texts(original_length):
        factors = {"short_factors": (1.0, 1.2, 1.5, 2.0), "long_factors": (2.0, 3.0, 5.0, 9.0)}
        scaling = {"type": "longrope", "original_length": original_length, **factors}
        config = tiny.config(num_layers=2, rope_scaling=scaling)
        generator = Generator(
            tiny.abstract(config),
            vocab_size=USED,
            stop_ids=(NEVER,),
            sampling=Sampling(temperature=0.0, max_tokens=NEW),
        )
        return generator(param_dict(tiny.decoder(config, seed=1)), PROMPTS)

    assert texts(20) == texts(1000)  # a prompt of 11 is padded to 32
    with pytest.raises(ValueError, match="cross the 12 tokens at which this model changes"):
        texts(12)
