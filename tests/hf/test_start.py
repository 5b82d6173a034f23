"""Training that starts from a folder: all of it, or with another head than it has."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from pydantic import TypeAdapter

from jaxllm.hf.start import HfStart
from jaxllm.models import EncoderConfig, ModelConfig
from jaxllm.nn.param import spec_dict

from .published import published


def started(name, tmp_path, **changes):
    """(start, config, specs) of a model that differs so from the recorded one."""
    published(name).write(tmp_path / name)
    start = HfStart(path=str(tmp_path / name))
    config = EncoderConfig.model_validate({**start.model(), **changes})
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), config.vocab_size))
    return start, config, spec_dict(model)


def weights(start, config, specs):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda spec: place, specs)
    start.check(config, specs=specs)
    return flatten_dict(start.weights(config, specs=specs, shardings=shardings))


HEAD = {"label_head.kernel", "label_head.bias"}
POOLER = {"pooler.dense.kernel", "pooler.dense.bias"}


@pytest.mark.parametrize(
    ("name", "changes", "new"),
    [
        ("bert_pooler", {"head": "sequence", "num_labels": 3}, HEAD),
        ("bert_masked_lm", {"head": "sequence", "num_labels": 3}, HEAD | POOLER),
        # Its own head of two tells whether one text follows another, which is another question.
        ("bert_pretraining", {"head": "sequence", "num_labels": 2}, HEAD),
        ("bert_pretraining", {"head": "masked_lm"}, set()),
        ("bert_sequence", {"num_labels": 7}, HEAD),
        ("bert_sequence", {}, set()),
        ("bert_token", {"head": "none", "num_labels": None}, set()),
        ("roberta_model", {"head": "sequence", "num_labels": 3}, HEAD),
    ],
)
def test_only_a_head_that_the_folder_has_not_is_new(name, changes, new, tmp_path):
    start, config, specs = started(name, tmp_path, **changes)
    assert set(start.new_weights(config, specs=specs)) == new
    found, there = weights(start, config, specs), flatten_dict(published(name).load())
    assert {".".join(path) for path in found} == {
        ".".join(path) for path in flatten_dict(specs)
    } - new
    assert len(found) > 10
    for path, values in found.items():
        np.testing.assert_array_equal(values, there[path], err_msg=".".join(path))


def test_a_head_that_is_asked_for_is_new_though_there_is_one_like_it(tmp_path):
    start, config, specs = started("bert_sequence", tmp_path)
    start = start.model_copy(update={"head": "new"})
    assert set(start.new_weights(config, specs=specs)) == HEAD
    found = {".".join(path) for path in weights(start, config, specs)}
    assert found == {".".join(path) for path in flatten_dict(specs)} - HEAD


@pytest.mark.parametrize("name", ["t5_v1_1", "marian"])
def test_an_encoder_decoder_starts_from_all_that_there_is(name, tmp_path):
    published(name).write(tmp_path / name)
    start = HfStart(path=str(tmp_path / name))
    config = TypeAdapter(ModelConfig).validate_python(start.model())
    assert config == published(name).config
    assert not start.new_weights(config, specs=published(name).specs)
    found = weights(start, config, published(name).specs)
    for path, values in flatten_dict(published(name).load()).items():
        np.testing.assert_array_equal(found[path], values, err_msg=".".join(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 1}, r"encoder\.layer\.1\..*: left over"),
        ({"mlp_dim": 24}, r"intermediate\.dense\.weight: of shape"),
        ({"num_token_types": 0}, r"token_type_embeddings\.weight: left over"),
        ({"is_gated": True}, r"has no such weights: blocks\.layers\.mlp\.gate"),
    ],
)
def test_all_else_must_fit(changes, message, tmp_path):
    changes = {"head": "sequence", "num_labels": 3, **changes}
    start, config, specs = started("bert_pooler", tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        start.check(config, specs=specs)


def test_a_body_that_is_not_whole_is_an_error_also_with_a_new_head(tmp_path):
    start, config, specs = started("bert_pooler", tmp_path, head="sequence", num_labels=3)
    case = published("bert_pooler")
    tensor = next(name for name in case.theirs if name.endswith("attention.output.dense.bias"))
    del (cut := dict(case.theirs))[tensor]
    from . import random_weights

    random_weights.write_safetensors(tmp_path / "bert_pooler" / "model.safetensors", cut)
    with pytest.raises(ValueError, match=f"{tensor}: missing"):
        start.check(config, specs=specs)


def test_a_folder_of_a_package_that_is_not_there():
    with pytest.raises(ValueError, match=r"init_from\.path: 'package://no_such/model' names the"):
        HfStart(path="package://no_such/model").model()
