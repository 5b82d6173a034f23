"""B batch, H height and width, C channels of a pixel, L classes."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.param import bind
from jaxllm.objectives import ImageClassification, Vocabulary
from jaxllm.objectives.pixels import PixelConfig
from tests.hf.compared import check_gradients, check_loss
from tests.hf.published import published

B, H, C, L = 6, 8, 3, 5


def pixels():
    return np.random.default_rng(0).integers(0, 256, (B, H, H, C)).astype(np.uint8)


def batch(**changes):
    fields = {
        "pixels": pixels(),
        "label": np.array([0, 3, 1, 1, 4, 0], np.int32),
        "loss_mask": np.array([1, 1, 0, 1, 1, 0], np.float32),
    }
    return {**fields, **changes}


def scores():
    return np.random.default_rng(1).normal(size=(B, L)).astype(np.float32)


def model(logits, called):
    def run(pixels, **options):
        called.update(options, pixels=pixels)
        return SimpleNamespace(logits=logits)

    return run


def test_loss_and_gradients_are_those_of_transformers():
    """Through the objective, on the images that were recorded, normalised already."""
    case = published("vit")
    given = {
        "pixels": jnp.moveaxis(case.reference["pixel_values"], 1, 3),
        "label": case.reference["labels"],
        "loss_mask": np.ones(len(case.reference["labels"]), np.float32),
    }

    def loss(params):
        sums = ImageClassification()(bind(case.module, params), given)
        return sums.loss / sums.num_tokens

    found, gradients = tiny.fast(jax.value_and_grad(loss))(case.load())
    check_loss(case, found)
    check_gradients(case, gradients)


def test_only_scored_rows_count():
    called, given, logits = {}, batch(), scores()
    sums = ImageClassification()(model(logits, called), given, keys_B="keys")
    wide = logits.astype(np.float64)
    nll = np.log(np.exp(wide).sum(-1)) - wide[np.arange(B), given["label"]]
    # float32 rounding of a sum of four terms
    np.testing.assert_allclose(sums.nll, nll[given["loss_mask"] > 0].sum(), rtol=1e-6)
    assert sums.loss == sums.nll
    assert sums.num_tokens == 4
    assert called["keys_B"] == "keys"


def test_smoothed_targets_have_a_share_of_every_class():
    """The likelihood that is told is that of the class alone."""
    logits, given = scores(), batch(loss_mask=np.ones(B, np.float32))
    sums = ImageClassification(label_smoothing=0.2)(model(logits, {}), given)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    target = 0.8 * np.eye(L)[given["label"]] + 0.2 / L
    np.testing.assert_allclose(sums.loss, -(target * log_p).sum(), rtol=1e-6)  # float32 rounding
    plain = ImageClassification()(model(logits, {}), given)
    assert sums.nll == plain.nll


def test_bytes_are_normalised_by_channel_and_floats_are_taken_as_they_are():
    mean, std = (0.1, 0.4, 0.7), (0.2, 0.3, 0.5)
    config, called = PixelConfig(mean=mean, std=std), {}
    ImageClassification(pixels=config).predict(model(scores(), called), batch())
    wanted = (pixels() / 255.0 - np.array(mean)) / np.array(std)
    # float32 rounding of values below 5
    np.testing.assert_allclose(called["pixels"], wanted, rtol=0, atol=1e-6)
    floats = wanted.astype(np.float32)
    np.testing.assert_array_equal(config(jnp.asarray(floats)), floats)
    one = PixelConfig()(jnp.asarray(pixels()))
    np.testing.assert_allclose(one, pixels() / 127.5 - 1, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"pixels\.std has 2 numbers, but pictures have 3"):
        PixelConfig(std=(0.1, 0.2))(jnp.asarray(pixels()))


def test_pictures_are_moved_in_training_alone_each_by_its_own_key():
    config = PixelConfig(is_flipped=True, max_shift=2)
    given = jnp.asarray(pixels())
    keys_B = jax.random.split(jax.random.key(0), B)
    np.testing.assert_array_equal(config(given), PixelConfig()(given))
    trained = tiny.fast(lambda pixels, keys: config(pixels, keys_B=keys))
    found = np.asarray(trained(given, keys_B))
    # In another batch, among others.
    np.testing.assert_array_equal(found[::-1], trained(given[::-1], keys_B[::-1]))
    assert all(np.any(moved != still) for moved, still in zip(found, config(given), strict=True))

    def is_one_of(moved, still):
        """Whether it is the picture or its mirror, somewhere in a black frame."""
        sides = (still, still[:, ::-1])
        wide = [np.pad(one, ((2, 2), (2, 2), (0, 0))) for one in sides]
        places = [(one, y, x) for one in wide for y in range(5) for x in range(5)]
        return any(np.array_equal(moved, one[y : y + H, x : x + H]) for one, y, x in places)

    moved = np.rint((found * 0.5 + 0.5) * 255).astype(np.uint8)
    assert all(is_one_of(*pair) for pair in zip(moved, pixels(), strict=True))


def test_it_predicts_without_labels_and_reads_no_tokens():
    logits = scores()
    found = ImageClassification().predict(model(logits, {}), {"pixels": pixels()})
    np.testing.assert_array_equal(found["logits"], logits)
    assert ImageClassification().arrangement(Vocabulary(9, ()), seed=0) is None
    assert ImageClassification().num_ids(Vocabulary(9, special_ids=(0,))) == 0
