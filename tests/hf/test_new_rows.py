"""More tokens than a published model has: the old ones stay, new ones are their mean."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny import fast

from jaxllm.hf.new_rows import Grown
from jaxllm.hf.start import HfStart
from jaxllm.models import DecoderConfig, EncoderConfig
from jaxllm.nn.param import bind, spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

from .published import InMemory, published

NEW = 7  # 97 and 7 are 104, which a mesh of eight divides
ONE_DEVICE = ParallelConfig(layout="replicated").build(jax.devices()[:1])


class Opened:
    """A case as a folder, and the network of it with more tokens."""

    def __init__(self, name, folder, *, new=NEW, **options):
        case = published(name)
        case.write(folder / name)
        self.start = HfStart(path=str(folder / name), **options)
        kind = DecoderConfig if case.config.type == "decoder" else EncoderConfig
        self.old = case.config.vocab_size
        self.config = kind.model_validate({**self.start.model(), "vocab_size": self.old + new})
        self.model = jax.eval_shape(
            lambda: self.config.build(jax.random.key(0), self.config.vocab_size)
        )
        self.specs = spec_dict(self.model)

    def check(self):
        self.start.check(self.config, specs=self.specs)

    def weights(self, layout=ONE_DEVICE):
        shardings = weight_shardings(layout, self.specs)
        return self.start.weights(self.config, specs=self.specs, shardings=shardings)


@pytest.mark.parametrize(
    ("name", "longer"),
    [
        ("llama1", {("embed", "table"): 0, ("out", "kernel"): 1}),
        ("gpt2", {("embed", "table"): 0}),
        ("bert_masked_lm", {("embed", "table"): 0, ("vocabulary_head", "bias"): 0}),
    ],
)
def test_what_is_there_keeps_every_bit_and_new_rows_are_the_mean(name, longer, tmp_path):
    opened = Opened(name, tmp_path, new_tokens="mean")
    opened.check()
    found, before = flatten_dict(opened.weights()), flatten_dict(published(name).load())
    assert found.keys() == before.keys()
    for path, values in found.items():
        values, there = np.asarray(values), np.asarray(before[path])
        if path in longer:
            old, new = np.split(values, [opened.old], axis=longer[path])
            assert new.shape[longer[path]] == NEW
            mean = np.mean(there, axis=longer[path], keepdims=True, dtype=np.float64)
            # To a rounding: a float64 mean in another order may round to the next float32.
            np.testing.assert_allclose(new, np.broadcast_to(mean, new.shape), rtol=1.2e-7)
            values = old
        np.testing.assert_array_equal(values, there, err_msg=".".join(path))


def test_old_tokens_say_the_same_to_the_bit(tmp_path):
    case, opened = published("llama1"), Opened("llama1", tmp_path, new_tokens="mean")
    tokens = case.reference["input_ids"]
    before = fast(lambda params: bind(case.module, params)(tokens))(case.load())
    after = np.asarray(fast(lambda params: bind(opened.model, params)(tokens))(opened.weights()))
    np.testing.assert_array_equal(after[..., : opened.old], before)
    # The logits of new tokens are the mean of the others: sums of 36 products, in another order.
    mean = np.mean(before, axis=-1, keepdims=True)
    np.testing.assert_allclose(after[..., opened.old :], mean.repeat(NEW, -1), rtol=0, atol=1e-5)


def test_a_device_reads_what_all_would(tmp_path):
    """To the bit, where the vocabulary is cut over devices and where the width is."""
    opened = Opened("llama1", tmp_path, new_tokens="mean")
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    found = opened.weights(layout)
    assert not found["embed"]["table"].sharding.is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, found, opened.weights())


@pytest.mark.parametrize("dim", [0, 1])
def test_any_part_of_it_is_that_part_of_the_whole(dim):
    values = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    grown = Grown(InMemory(values), dim=dim, size=9)
    whole = grown.read((slice(None), slice(None)))
    mean = np.mean(values, axis=dim, keepdims=True, dtype=np.float64).astype(np.float32)
    more = np.repeat(mean, 9 - values.shape[dim], axis=dim)
    np.testing.assert_array_equal(whole, np.concatenate([values, more], axis=dim))
    assert whole.shape == grown.shape
    for first in range(9):
        for last in range(first + 1, 10):
            box = [slice(2, 4), slice(2, 4)]
            box[dim] = slice(first, last)
            np.testing.assert_array_equal(grown.read(tuple(box)), whole[tuple(box)])


def test_new_rows_are_made_only_where_they_are_asked_for(tmp_path):
    message = r"model\.vocab_size=104, but .*llama1 has 97 rows.*set init_from\.new_tokens=mean"
    with pytest.raises(ValueError, match=message):
        Opened("llama1", tmp_path / "a").check()
    message = r"init_from\.new_tokens=mean is given, but .*llama1 has 97 rows.*the model has 97"
    with pytest.raises(ValueError, match=message):
        Opened("llama1", tmp_path / "b", new=0, new_tokens="mean").check()
