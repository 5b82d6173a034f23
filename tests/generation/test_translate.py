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
CONFIG = EncoderDecoderConfig.model_validate(SIZES | {"num_buckets": 4, "max_distance": 5})


@cache
def weights():
    """Weights whose likeliest token is often padding."""
    params = param_dict(tiny.decoder(CONFIG, seed=1))
    boost = jnp.where(jnp.arange(VOCAB) >= USED, 3.0, 1.0)
    params["out"]["kernel"] = params["out"]["kernel"] * boost
    return params


def make(config=CONFIG, **options):
    usual = {"vocab_size": USED, "max_tokens": NEW, "start_id": START}
    return Translator(tiny.abstract(config), **(usual | options))


@cache
def greedy():
    """Targets of all sources in one batch."""
    return make()(weights(), SOURCES)


def test_cached_equals_uncached():
    """The argmax of the whole network over all tokens so far, one token after the other."""
    model = tiny.abstract(CONFIG)
    run = fast(lambda params, *rows: bind(model, params)(*rows[:2], encoder_mask_BS=rows[2]))
    num_padding = 0
    for source, found in zip(SOURCES, greedy(), strict=True):
        tokens, mask = np.zeros((1, 12), np.int32), np.zeros((1, 12), np.int32)
        tokens[0, : len(source)], mask[0, : len(source)] = source, 1
        target = np.zeros((1, 1 + NEW), np.int32)  # what follows is never looked at
        target[0, 0] = START
        for place in range(NEW):
            logits = np.asarray(run(weights(), tokens, target, mask))[0, place]
            target[0, place + 1] = np.argmax(logits[:USED])
            num_padding += np.argmax(logits) >= USED
        assert found == target[0, 1:].tolist()
    assert num_padding  # was likeliest somewhere


def test_a_target_ends_before_the_stop_token():
    stop_id = greedy()[0][2]
    stopped = make(stop_ids=(stop_id, VOCAB))(weights(), SOURCES)
    for before, after in zip(greedy(), stopped, strict=True):
        assert after == (before[: before.index(stop_id)] if stop_id in before else before)
    assert len(stopped[0]) <= 2


def test_sharded_weights_give_the_same_targets():
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    shardings = weight_shardings(layout, spec_dict(tiny.abstract(CONFIG)))
    assert make(layout=layout)(jax.device_put(weights(), shardings), SOURCES) == greedy()


def test_what_is_too_long_or_empty_is_refused():
    short = EncoderDecoderConfig(**SIZES, positions="sinusoidal", max_length=12)
    with pytest.raises(ValueError, match="max_tokens is 13, but the model's positions are"):
        make(short, max_tokens=13)
    with pytest.raises(ValueError, match="source length is 13"):
        make(short)(weights(), [[1], [1] * 13])
    with pytest.raises(ValueError, match="source 1 has no token"):
        make()(weights(), [[1], []])
