"""Rotary positions of init_from, scaled anew for longer texts."""

import jax
import numpy as np
import pytest
import tiny

from jaxllm.commands.assembly import assemble
from jaxllm.commands.first_state import check_start
from jaxllm.config import load_config
from jaxllm.hf.model import load_model, write_weights
from jaxllm.nn.param import bind, param_dict
from jaxllm.nn.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling
from jaxllm.parallel.mesh import ParallelConfig

VOCAB = 64
PUBLISHED = Llama3Scaling(factor=4.0, original_length=16)
YARN = "{type: yarn, factor: 4.0, original_length: 16, amplitude: 1.1386}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Llama 3.1 as a Hugging Face folder. Read it only."""
    folder = tmp_path_factory.mktemp("base") / "model"
    config = tiny.config(vocab_size=VOCAB, num_layers=1, max_length=64, rope_scaling=PUBLISHED)
    write_weights(folder, config, param_dict(tiny.decoder(config)))
    return folder


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{}", PUBLISHED),
        ("{rope_scaling: {factor: 16.0}}", PUBLISHED.model_copy(update={"factor": 16.0})),
        # Another kind has other keys, and takes over none.
        ("{rope_scaling: {type: linear, factor: 2.0}}", LinearScaling(factor=2.0)),
        (
            f"{{rope_scaling: {YARN}}}",
            YarnScaling(factor=4.0, original_length=16, amplitude=1.1386),
        ),
        ("{rope_scaling: null}", None),
    ],
)
def test_what_is_given_stands_instead_of_what_is_published(given, expected, ids, base):
    start = f"init_from={{type: hf, path: {base}}}"
    config = load_config(ids, [start, f"model={given}"])
    assert config.model.rope_scaling == expected
    published = load_config(ids, [start, "model={}"]).model
    assert config.model.model_copy(update={"rope_scaling": PUBLISHED}) == published


def test_the_same_weights_read_longer_texts(ids, base, tmp_path):
    more = [
        f"init_from={{type: hf, path: {base}}}",
        f"model={{rope_scaling: {YARN}, max_length: 256}}",
    ]
    config = load_config(ids, more)
    layout = ParallelConfig(layout="replicated").build(jax.devices()[:1])
    parts = assemble(config, layout=layout, vocab_size=VOCAB)
    check_start(config, parts)  # they fit
    old = load_model(base)
    write_weights(tmp_path / "out", config.model, old.params)
    out, tokens = load_model(tmp_path / "out"), tiny.batch(0)["tokens"]
    assert out.config.rope_scaling == config.model.rope_scaling
    assert out.config.max_length == 256
    expected = tiny.fast(lambda params: bind(parts.model, params)(tokens))(old.params)
    # The same program, optimised otherwise.
    np.testing.assert_allclose(out(tokens), expected, rtol=0, atol=1e-5)
    assert np.abs(np.asarray(out(tokens)) - old(tokens)).max() > 0.01
