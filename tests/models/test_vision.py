"""B images, T patches and a class token, D embed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import fast

from jaxllm.models.vision_config import VisionConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import check_weights, weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

SIZE, PATCH = 16, 4
ROUNDING = 1e-5  # float32's, of values of size one, over two layers


def config(**changes):
    sizes = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
    sizes |= {"image_size": SIZE, "patch_size": PATCH, "head": "image", "num_labels": 5}
    return VisionConfig.model_validate(sizes | changes)


def images(rows=8, size=SIZE):
    return np.random.default_rng(0).normal(size=(rows, size, size, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def vision():
    return tiny.decoder(config())


@pytest.fixture(scope="module")
def expected(vision):
    return fast(vision)(images())


def assert_close(found, expected):
    np.testing.assert_allclose(found.hidden_BTD, expected.hidden_BTD, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=ROUNDING)


def test_patches_lie_row_by_row_behind_the_class_token(vision):
    """A patch that is doubled changes its own embedding alone."""
    pixels = images(rows=1)
    before = np.asarray(vision.patch_embed(vision._patches(jnp.asarray(pixels))))
    for row, column in ((0, 1), (2, 3)):
        changed = pixels.copy()
        part = np.s_[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        changed[part] *= 2
        after = np.asarray(vision.patch_embed(vision._patches(jnp.asarray(changed))))
        is_changed = np.any(before != after, axis=(0, 2))
        np.testing.assert_array_equal(np.flatnonzero(is_changed), [row * SIZE // PATCH + column])
    patch = vision._patches(jnp.asarray(pixels))[0, 5]
    np.testing.assert_array_equal(patch, pixels[0, 4:8, 4:8].reshape(-1))


def test_classes_are_told_by_the_first_state_which_sees_all_patches(vision, expected):
    assert expected.hidden_BTD.shape == (8, (SIZE // PATCH) ** 2 + 1, 32)
    assert expected.pooled_BP is None
    logits = vision.label_head(expected.hidden_BTD[:, 0])
    np.testing.assert_allclose(expected.logits, logits, rtol=0, atol=ROUNDING)
    gradient = fast(jax.grad(lambda pixels: jnp.sum(vision(pixels).logits)))(images(rows=1))
    by_patch = np.asarray(gradient).reshape(4, PATCH, 4, PATCH, 3)
    assert np.all(np.any(by_patch != 0, axis=(1, 3, 4)))


def test_unrolled_and_recomputed_is_the_same(vision, expected):
    model = tiny.abstract(config(is_scanned=False, remat="full"))
    found = fast(lambda params: bind(model, params)(images()))(param_dict(vision))
    assert_close(found, expected)


def test_eight_devices_compute_what_one_does(vision, expected):
    """17 positions do not divide over two devices."""
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    model = tiny.abstract(config())
    specs = spec_dict(model)
    check_weights(layout, specs)
    params = jax.device_put(param_dict(vision), weight_shardings(layout, specs))
    found = fast(lambda params: bind(model, params)(images(), layout=layout))(params)
    assert_close(found, expected)


def test_weights_follow_the_options():
    def names(**changes):
        specs = spec_dict(tiny.abstract(config(**changes)))
        return {".".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(specs)}

    plain = names()
    assert plain - names(has_patch_bias=False) == {"patch_embed.bias"}
    assert names(has_input_norm=True) - plain == {"input_norm.scale", "input_norm.bias"}
    head = {"label_head.kernel", "label_head.bias"}
    assert plain - names(head="none", num_labels=None) == head
    pooler = {"pooler.dense.kernel", "pooler.dense.bias"}
    assert names(head="pooler", num_labels=None) - plain == pooler


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "patch_size=5 does not divide image_size=16"),
        ({"num_labels": None}, "head=image needs num_labels"),
        ({"head": "pooler"}, "num_labels=5 is given, but head=pooler has no classes"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_images_of_another_size_are_refused(vision):
    with pytest.raises(ValueError, match=r"\(20, 20, 3\), but the model takes \(16, 16, 3\)"):
        jax.eval_shape(vision, images(size=20))


def test_a_row_is_as_long_as_an_image_and_has_no_vocabulary():
    of_images = config()
    of_images.check_length(17, key="data.sequence_length")
    for length in (16, 18):
        with pytest.raises(ValueError, match=r"has 17 positions, .* set data\.sequence_length=17"):
            of_images.check_length(length, key="data.sequence_length")
    assert of_images.padded_vocab_size(257) == of_images.vocab_size == 0


def test_what_patches_are_multiplied_by_is_counted():
    """All hidden matrices, and no embedding, bias, norm or head."""
    specs = jax.tree.leaves(spec_dict(tiny.abstract(config())))
    expected = sum(np.prod(spec.shape) for spec in specs if spec.role == "hidden")
    assert config().matmul_size == expected
