"""Translation against the uncached network."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import VOCAB, fast

from jaxllm.generation.translate import Translator
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

USED = VOCAB - 4  # ids from here on are padding of the vocabulary
START, NEW = 3, 6  # START is not the models' own
SOURCES = [[5, 9, 11], [7], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]]
SIZES = {"num_layers": 1, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
CONFIGS = {
    "relative": SIZES | {"num_buckets": 4, "max_distance": 5, "is_tied": True},
    "sinusoidal": SIZES | {"positions": "sinusoidal", "max_length": 12},
}


@cache
def network(name):
    """The abstract network, and weights whose likeliest token is often padding."""
    config = EncoderDecoderConfig.model_validate(CONFIGS[name])
    params = param_dict(tiny.decoder(config, seed=1))
    if "out" in params:
        boost = jnp.where(jnp.arange(VOCAB) >= USED, 3.0, 1.0)
        params["out"]["kernel"] = params["out"]["kernel"] * boost
    return tiny.abstract(config), params


def make(name, **options):
    usual = {"vocab_size": USED, "max_tokens": NEW, "start_id": START}
    return Translator(network(name)[0], **(usual | options))


@cache
def greedy(name):
    """Targets of all sources in one batch."""
    return make(name)(network(name)[1], SOURCES)


@pytest.mark.parametrize("name", CONFIGS)
def test_cached_equals_uncached(name):
    """The argmax of the whole network over all tokens so far, one token after the other."""
    model, params = network(name)
    run = fast(lambda *tokens: bind(model, params)(*tokens[:2], encoder_mask_BS=tokens[2]))
    num_padding = 0
    for source, found in zip(SOURCES, greedy(name), strict=True):
        tokens, mask = np.zeros((1, 12), np.int32), np.zeros((1, 12), np.int32)
        tokens[0, : len(source)], mask[0, : len(source)] = source, 1
        target = np.zeros((1, 1 + NEW), np.int32)  # what follows is never looked at
        target[0, 0] = START
        for place in range(NEW):
            logits = np.asarray(run(tokens, target, mask))[0, place]
            target[0, place + 1] = np.argmax(logits[:USED])
            num_padding += np.argmax(logits) >= USED
        assert found == target[0, 1:].tolist()
    if name == "sinusoidal":
        assert num_padding  # was likeliest somewhere


def test_a_target_ends_before_the_stop_token():
    found = greedy("relative")
    stop_id = found[0][2]
    stopped = make("relative", stop_ids=(stop_id, VOCAB))(network("relative")[1], SOURCES)
    for before, after in zip(found, stopped, strict=True):
        assert after == (before[: before.index(stop_id)] if stop_id in before else before)
    assert len(stopped[0]) <= 2


def test_sharded_weights_give_the_same_targets():
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    model, params = network("relative")
    placed = jax.device_put(params, weight_shardings(layout, spec_dict(model)))
    assert make("relative", layout=layout)(placed, SOURCES) == greedy("relative")


def test_what_is_too_long_or_empty_is_refused():
    with pytest.raises(ValueError, match="max_tokens is 13, but the model's positions are"):
        make("sinusoidal", max_tokens=13)
    with pytest.raises(ValueError, match="source length is 13"):
        make("sinusoidal")(network("sinusoidal")[1], [[1], [1] * 13])
    with pytest.raises(ValueError, match="source 1 has no token"):
        make("sinusoidal")(network("sinusoidal")[1], [[1], []])
