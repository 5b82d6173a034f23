"""B texts, I images, T length, P projection."""

import jax
import numpy as np
import pytest
import tiny
from tiny import LENGTH, VOCAB, fast

from jaxllm.models import with_vocabulary
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.models.two_towers_config import TwoTowersConfig
from jaxllm.models.vision_config import VisionConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import check_weights, weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

END = 50
SIZES = {"num_layers": 2, "num_heads": 4, "mlp_dim": 48}
# float32's rounding, over two layers, of products that exp(log_scale) = 3 enlarges.
ROUNDING = 1e-5


def config(**changes):
    text = {"embed_dim": 32, "max_length": LENGTH, "is_tied": True, "positions": "learned"}
    vision = {"embed_dim": 24, "image_size": 16, "patch_size": 4}
    given = {"text": SIZES | text, "vision": SIZES | vision, "projection_dim": 20, "end_id": END}
    return TwoTowersConfig.model_validate(given | changes)


def texts():
    """Eight texts that end at another place each, with higher tokens before and behind."""
    tokens = np.random.default_rng(0).integers(1, VOCAB, (8, LENGTH)).astype(np.int32)
    tokens[tokens == END] = 1
    ends = np.arange(8) + 5
    tokens[np.arange(8), ends] = END
    return tokens, ends


def images():
    return np.random.default_rng(1).normal(size=(8, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def towers():
    return tiny.decoder(config())


@pytest.fixture(scope="module")
def expected(towers):
    return jax.device_get(fast(towers)(texts()[0], images()))


def test_logits_are_scaled_products_of_unit_vectors(towers, expected):
    for vectors in (expected.texts_BP, expected.images_IP):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    products = expected.images_IP @ expected.texts_BP.T
    np.testing.assert_allclose(
        expected.logits_IB, np.exp(towers.log_scale[...]) * products, rtol=0, atol=ROUNDING
    )


def test_a_text_is_what_comes_before_its_end(towers, expected):
    tokens, ends = texts()
    behind = np.arange(LENGTH) > ends[:, None]
    run = fast(towers.embed_texts)
    changed = run(np.where(behind, END, tokens))  # the end again, as padding
    np.testing.assert_allclose(changed, expected.texts_BP, rtol=0, atol=ROUNDING)
    tokens[:, 2] = tokens[:, 2] % (END - 1) + 1
    assert np.all(np.abs(run(tokens) - expected.texts_BP).max(axis=1) > 1e-3)


def test_without_an_end_token_the_highest_stands_for_the_text(towers, expected):
    tokens, ends = texts()
    tokens = np.minimum(tokens, END - 1)
    tokens[np.arange(8), ends] = END
    before = fast(towers.embed_texts)(tokens)
    highest = bind(tiny.abstract(config(end_id=None)), param_dict(towers))
    np.testing.assert_allclose(fast(highest.embed_texts)(tokens), before, rtol=0, atol=ROUNDING)


def test_eight_devices_compute_what_one_does(towers, expected):
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    model = tiny.abstract(config())
    specs = spec_dict(model)
    check_weights(layout, specs)
    params = jax.device_put(param_dict(towers), weight_shardings(layout, specs))
    run = fast(lambda params: bind(model, params)(texts()[0], images(), layout=layout))
    np.testing.assert_allclose(run(params).logits_IB, expected.logits_IB, rtol=0, atol=ROUNDING)


def test_the_scale_starts_where_the_config_says():
    start = jax.jit(lambda key: config(initial_log_scale=0.5).build(key, VOCAB).log_scale[...])
    assert start(jax.random.key(0)) == 0.5
    assert spec_dict(tiny.abstract(config()))["log_scale"].shape == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": DecoderConfig()}, "text.is_tied=false"),
        ({"vision": VisionConfig(head="pooler")}, "vision.head=pooler"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_the_work_is_that_of_the_text_and_of_its_image():
    towers = config()
    of_image, patches = towers.vision.matmul_size, towers.vision.num_positions
    of_text = 1000
    attention = 12 * 2 * (LENGTH * LENGTH * 32 + patches * patches * 24)
    row = 6 * (LENGTH * of_text + patches * of_image) + attention
    per_token = towers.flops_per_token(of_text + of_image, LENGTH)
    np.testing.assert_allclose(per_token * LENGTH, row, rtol=1e-12)


def test_the_vocabulary_is_the_texts():
    assert with_vocabulary(config(), 128).text.vocab_size == 128
    assert with_vocabulary(config().vision, 128) == config().vision
    assert config().padded_vocab_size(65) == 128
    few = with_vocabulary(config(), 64)
    with pytest.raises(ValueError, match=r"model\.text\.vocab_size is 64, .* use 65 ids"):
        few.padded_vocab_size(65)
    with pytest.raises(ValueError, match=f"rows is {LENGTH + 1}, but the model has {LENGTH}"):
        config().check_length(LENGTH + 1, key="rows")
