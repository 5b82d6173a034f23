"""Pictures and texts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.nn.param import bind
from jaxllm.objectives import ImageText, Vocabulary
from tests.hf.compared import check_gradients, check_loss
from tests.hf.published import published


def recorded(case):
    reference = case.reference
    return {
        "tokens": reference["input_ids"],
        "segment_ids": reference["attention_mask"],
        "pixels": jnp.moveaxis(reference["pixel_values"], 1, 3),
        "loss_mask": np.ones(len(reference["input_ids"]), np.float32),
    }


@pytest.fixture(scope="module")
def params():
    return published("clip").load()


@pytest.fixture(scope="module")
def differentiated():
    """(params, loss_mask) -> (loss, gradients) of the recorded pairs; a program to compile."""
    case = published("clip")

    def loss(params, mask_B):
        batch = {**recorded(case), "loss_mask": mask_B}
        sums = ImageText()(bind(case.module, params), batch)
        return sums.loss / sums.num_tokens

    return tiny.fast(jax.value_and_grad(loss))


def test_loss_and_gradients_are_those_of_transformers(differentiated, params):
    case = published("clip")
    found, gradients = differentiated(params, np.ones(3, np.float32))
    check_loss(case, found)
    check_gradients(case, gradients)


def test_a_single_pair_has_nothing_to_be_told_from(differentiated, params):
    loss, gradients = differentiated(params, np.array([0, 1, 0], np.float32))
    assert loss == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(jax.device_get(gradients)))


def test_a_scale_above_100_is_taken_for_100_and_can_come_back(differentiated, params):
    def at(scale):
        given = {**params, "log_scale": jnp.log(jnp.float32(scale))}
        loss, gradients = differentiated(given, np.ones(3, np.float32))
        return float(loss), float(gradients["log_scale"])

    at_limit, beyond = at(100), at(400)
    # float32's rounding of exp and log
    np.testing.assert_allclose(beyond, at_limit, rtol=1e-4)
    assert at_limit[1] != 0
    assert abs(at(50)[0] - at_limit[0]) > 1e-3 * at_limit[0]


def test_it_predicts_of_texts_or_images_alone(params):
    case, objective, names = published("clip"), ImageText(), ("tokens", "segment_ids")
    batch = recorded(case)

    def both(params):
        model = bind(case.module, params)
        texts = objective.predict(model, {name: batch[name] for name in names})
        return texts, objective.predict(model, {"pixels": batch["pixels"]})

    texts, images = tiny.fast(both)(params)
    assert set(texts) == {"embedding"}
    assert set(images) == {"image_embedding"}
    for name, found in (texts | images).items():
        wanted = case.reference["text_embeds" if name == "embedding" else "image_embeds"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)  # float32 over three layers
    assert objective.num_ids(Vocabulary(9, special_ids=(0,))) == 9
    assert objective.arrangement(Vocabulary(9, special_ids=(0,)), seed=0) is None
