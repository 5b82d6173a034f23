"""Training that starts from encoders of images, and from two towers."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxllm.hf.start import HfStart
from jaxllm.models import TwoTowersConfig, VisionConfig
from jaxllm.nn.param import spec_dict

from .published import published

HEAD = {"label_head.kernel", "label_head.bias"}


def started(name, kind, tmp_path, **changes):
    """(start, config, specs) of a model that differs so from the recorded one."""
    published(name).write(tmp_path / name)
    start = HfStart(path=str(tmp_path / name))
    config = kind.model_validate({**start.model(), **changes})
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), config.vocab_size))
    return start, config, spec_dict(model)


@pytest.mark.parametrize(
    ("name", "kind", "changes", "new"),
    [
        ("vit_model", VisionConfig, {"head": "image", "num_labels": 3}, HEAD),
        ("vit", VisionConfig, {"num_labels": 7}, HEAD),
        ("vit", VisionConfig, {}, set()),
        ("clip", TwoTowersConfig, {}, set()),
    ],
)
def test_only_a_head_that_the_folder_has_not_is_new(name, kind, changes, new, tmp_path):
    start, config, specs = started(name, kind, tmp_path, **changes)
    assert set(start.new_weights(config, specs=specs)) == new
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda spec: place, specs)
    start.check(config, specs=specs)
    found = flatten_dict(start.weights(config, specs=specs, shardings=shardings))
    there = flatten_dict(published(name).load())
    wanted = {".".join(path) for path in flatten_dict(specs)} - new
    assert {".".join(path) for path in found} == wanted
    assert len(found) > 10
    for path, values in found.items():
        np.testing.assert_array_equal(values, there[path], err_msg=".".join(path))


def test_another_size_of_images_does_not_fit(tmp_path):
    start, config, specs = started("vit", VisionConfig, tmp_path, image_size=32)
    with pytest.raises(ValueError, match=r"position_embeddings: of shape"):
        start.check(config, specs=specs)
