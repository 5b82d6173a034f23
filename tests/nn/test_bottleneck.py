"""Small networks behind the branches of blocks."""

import jax
import numpy as np
import pytest
import tiny

from jaxllm.nn.adapters import is_adapter, without_adapters
from jaxllm.nn.bottleneck import Bottleneck, BottleneckConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import weight_items

from .adapted import NETWORKS, adapted, hidden, weights

SIZE = 5
# Beside the behaviour of one block, which others run too.
SLOW = {"unscanned", "encoder", "images"}


def everywhere(**changes):
    """Behind every branch of a network."""
    return BottleneckConfig(**({"size": SIZE, "targets": ("*blocks",)} | changes))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS]
)
def test_a_network_begins_as_it_is_and_all_of_them_count(name):
    config = NETWORKS[name]
    model, run = adapted(config, everywhere()), hidden(adapted(config, everywhere()))
    new, alone = weights(model, is_new=True), hidden(tiny.abstract(config))
    start = alone(without_adapters(new))
    np.testing.assert_array_equal(run(new), start)  # to the bit
    ups = [p for p, _ in weight_items(spec_dict(model)) if p.endswith("bottleneck.up.bias")]
    assert len(ups) == {"translation": 5}.get(name, 2)

    def with_one(path):
        """Something that no norm takes away again."""
        return jax.tree.map_with_path(
            lambda keys, leaf: (
                leaf + np.float32(np.arange(leaf.shape[-1]) % 7) * (named(keys) == path)
            ),
            new,
        )

    for path in ups:
        assert np.abs(np.asarray(run(with_one(path))) - start).max() > 1e-3, path


def named(keys):
    return ".".join(key.key for key in keys)


def test_by_hand():
    """arXiv:1902.00751, section 2.1."""
    build = lambda key: Bottleneck(key, embed_dim=6, size=SIZE, activation="relu")  # noqa: E731
    module = jax.eval_shape(build, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda spec: np.float32(rng.normal(size=spec.shape)), spec_dict(module))
    y = rng.normal(size=(2, 3, 6)).astype(np.float32)
    down, up = params["down"], params["up"]
    inner = np.maximum(y @ down["kernel"] + down["bias"], 0)
    found = bind(module, params)(y, layout=None)
    # Sums of six float32 products of size one.
    np.testing.assert_allclose(found, y + inner @ up["kernel"] + up["bias"], rtol=0, atol=1e-5)


def test_a_new_one_has_a_random_half_and_a_zero_half():

    @tiny.fast
    def make(key):
        model = tiny.config(num_layers=2).build(key, tiny.VOCAB)
        everywhere(targets=("*.mlp",)).attach(key, model)
        return param_dict(model)

    blocks = make(jax.random.key(0))["blocks"]["layers"]
    assert "bottleneck" not in blocks["attention"]
    found = blocks["mlp"]["bottleneck"]
    down = np.asarray(found["down"]["kernel"])
    assert down.shape == (2, 32, SIZE)
    assert abs(down.std() * 32**0.5 - 1) < 0.2  # of 320 numbers
    assert np.abs(down[0] - down[1]).max() > 0.1
    for zero in (found["up"]["kernel"], found["up"]["bias"], found["down"]["bias"]):
        assert not np.asarray(zero).any()


def test_its_weights_are_declared_as_those_of_its_stack():
    specs = spec_dict(adapted(NETWORKS["experts"], everywhere()))
    found = specs["blocks"]["layers"]["moe"]["bottleneck"]
    assert found["down"]["kernel"].axes == ("layers", "embed", "rank")
    assert found["up"]["kernel"].axes == ("layers", "rank", "embed")
    assert found["up"]["bias"].shape == (1, 32)
    assert "bottleneck" not in specs["blocks"]["layers"]["moe"]["shared"]
    paths = [path for path, _ in weight_items(specs) if is_adapter(path)]
    assert len(paths) == 2 * 4


def test_a_pattern_without_a_branch_is_refused():
    message = r"adapter\.targets: '\*\.query' matches nothing; there are\n  blocks\.layers\.atten"
    with pytest.raises(ValueError, match=message):
        adapted(tiny.config(), everywhere(targets=("*.query",)))
