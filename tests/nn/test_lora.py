"""A linear layer with a low-rank product beside its weight, and a network that has some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxllm.nn.adapters import LoraConfig, merged, without_adapters
from jaxllm.nn.linear import Linear
from jaxllm.nn.param import bind, normal, spec_dict

from . import adapted as networks
from .adapted import NETWORKS, hidden, weights

RANK, ALPHA = 3, 6.0
OPTIONS = {"rank": RANK, "alpha": ALPHA, "targets": ("*blocks",)}
CHANGES = {
    "llama": {"has_magnitude": True},
    "unscanned": {"is_rank_stabilised": True},
    "latent": {"has_magnitude": True},
    "encoder": {"has_magnitude": True},
    "images": {"targets": ("*blocks", "patch_embed")},
}


def adapted(config, **changes):
    """A network with adapters on all that is linear in its blocks."""
    return networks.adapted(config, LoraConfig(**(OPTIONS | changes)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_begins_as_it_is_and_is_itself_when_merged(name):
    config = NETWORKS[name]
    model, alone = adapted(config, **CHANGES.get(name, {})), tiny.abstract(config)
    with_adapters, by_itself = hidden(model), hidden(alone)
    new, learned = (weights(model, is_new=is_new) for is_new in (True, False))
    start = by_itself(without_adapters(new))
    np.testing.assert_array_equal(with_adapters(new), start)  # to the bit
    whole = merged(model, learned)
    assert jax.tree.structure(whole) == jax.tree.structure(spec_dict(alone))
    result = with_adapters(learned)
    assert np.abs(np.asarray(result) - np.asarray(start)).max() > 0.1
    # Two orders of the same sums, each rounded by 6e-8, of numbers up to about 4, in two layers.
    np.testing.assert_allclose(result, by_itself(whole), rtol=0, atol=3e-5)


class Holder(nnx.Module):
    """A network of one layer."""

    def __init__(self, key, inputs, outputs):
        self.layer = Linear(key, inputs=inputs, outputs=outputs, use_bias=False, init=normal(1.0))


def one_layer(inputs, outputs, **options):
    """A layer by itself with its adapter, and weights that were learned."""

    def make(key):
        holder = Holder(key, inputs, outputs)
        LoraConfig(rank=RANK, alpha=ALPHA, targets=("layer",), **options).attach(key, holder)
        return holder

    holder = jax.eval_shape(make, jax.random.key(0))
    params = weights(holder, is_new=False)["layer"]
    return lambda params, x: bind(holder, {"layer": params}).layer(x), params


@pytest.mark.parametrize("is_rank_stabilised", [False, True])
def test_by_hand(is_rank_stabilised):
    """arXiv:2106.09685, equation 3, and arXiv:2402.09353, equation 5, in float64."""
    layer, params = one_layer(
        {"heads": 2, "head_dim": 3},
        {"embed": 5},
        has_magnitude=True,
        is_rank_stabilised=is_rank_stabilised,
    )
    x = np.random.default_rng(3).normal(size=(4, 7, 2, 3)).astype(np.float32)
    kernel, a, b = (
        np.float64(leaf).reshape(shape)
        for leaf, shape in (
            (params["kernel"], (6, 5)),
            (params["lora"]["a"], (6, RANK)),
            (params["lora"]["b"], (RANK, 5)),
        )
    )
    scale = ALPHA / (np.sqrt(RANK) if is_rank_stabilised else RANK)
    direction = kernel + scale * a @ b
    lengths = np.linalg.norm(kernel, axis=0) + params["lora"]["magnitude"]
    whole = lengths * direction / np.linalg.norm(direction, axis=0)
    result = tiny.fast(layer)(params, x)
    # float32 sums of six products of size one.
    np.testing.assert_allclose(result, x.reshape(4, 7, 6) @ whole, rtol=0, atol=2e-5)


def test_lengths_are_constants_in_gradients():
    """arXiv:2402.09353, section 4.3."""
    layer, params = one_layer({"embed": 4}, {"mlp": 1}, has_magnitude=True)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    gradient = tiny.fast(jax.grad(lambda params: jnp.sum(jnp.square(layer(params, x)))))(params)
    kernel, lora = params["kernel"], params["lora"]
    scale = ALPHA / RANK
    direction = kernel + scale * lora["a"] @ lora["b"]
    stretch = (np.linalg.norm(kernel) + lora["magnitude"]) / np.linalg.norm(direction)
    by_hand = scale * lora["a"].T @ (x.T @ (2 * x @ direction * stretch**2))
    np.testing.assert_allclose(gradient["lora"]["b"], by_hand, rtol=1e-4)  # sums of six rows


def test_an_output_of_nothing_but_zeros_has_a_slope():
    """Where the weight itself is trained too, its length of zero has none, and counts as flat."""
    layer, params = one_layer({"embed": 4}, {"mlp": 3}, has_magnitude=True)
    params["kernel"][:, 1] = 0
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    slopes = tiny.fast(jax.grad(lambda params: jnp.sum(jnp.square(layer(params, x)))))
    for factor in (1.0, 0.0):  # with something learned, and without
        params["lora"]["b"] = factor * params["lora"]["b"]
        found = jax.tree.leaves(slopes(params))
        assert all(np.isfinite(leaf).all() for leaf in found)
        assert any(np.any(leaf) for leaf in found)


def test_its_weights_are_declared_as_the_layer_is():
    model = adapted(tiny.config(), has_magnitude=True, targets=("*.query", "*.attention.out"))
    layers = spec_dict(model)["blocks"]["layers"]["attention"]
    query, out = layers["query"]["lora"], layers["out"]["lora"]
    assert query["a"].axes == ("layers", "embed", "rank")
    assert query["a"].shape == (3, 32, RANK)
    assert (query["a"].input_dims, query["a"].output_dims) == ((1,), (2,))
    assert query["b"].axes == ("layers", "rank", "heads", "head_dim")
    assert (query["b"].input_dims, query["b"].output_dims) == ((1,), (2, 3))
    assert query["magnitude"].axes == ("layers", "heads", "head_dim")
    assert query["magnitude"].role == "scale"
    assert out["a"].axes == ("layers", "heads", "head_dim", "rank")
    assert out["b"].axes == ("layers", "rank", "embed")
    assert "lora" not in layers["key"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("*.querry",)}, r"adapter\.targets: '\*\.querry' matches nothing; there are"),
        # Tables are no linear layers.
        ({"targets": ("embed",)}, r"'embed' matches nothing; there are\n  blocks\.layers\.attent"),
        ({"targets": ("*.query", "out"), "dropout": 0.1}, r"adapter\.targets has out; set adapter"),
    ],
)
def test_what_cannot_have_one_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        adapted(tiny.config(), **changes)


@pytest.mark.parametrize("config", [tiny.config(num_layers=2), tiny.bert()])
def test_dropout_follows_the_example_alone(config):
    """What the product does not see is drawn anew for each example, layer and linear layer."""
    model = adapted(config, dropout=0.5)
    run, (new, learned) = hidden(model), (weights(model, is_new=is_new) for is_new in (True, False))
    keys_B, order, other = jax.random.split(jax.random.key(5), 4), np.arange(4), [2, 0, 3, 1]
    # Without anything learned there is nothing to drop.
    np.testing.assert_allclose(run(new, keys_B, order), run(new), atol=1e-5)
    first, second = run(learned, keys_B, order), run(learned, keys_B, np.array(other))
    # Another program, and rows in another order, are at most rounded apart.
    np.testing.assert_allclose(second, np.asarray(first)[other], atol=1e-5)
    again = run(learned, jax.random.split(jax.random.key(6), 4), order)
    assert np.abs(np.asarray(again) - np.asarray(first)).max() > 0.1


def test_latent_attention_decodes_with_what_was_learned():
    """Where a cache holds small vectors, weights are used by parts."""
    model = adapted(tiny.deepseek(num_layers=1), has_magnitude=True)
    params = weights(model, is_new=False)
    tokens_BT = np.random.default_rng(0).integers(1, tiny.VOCAB, (2, 8))

    @tiny.fast
    def both(params):
        decoder = bind(model, params)
        cache = decoder.empty_cache(2, 8)
        return decoder.forward(tokens_BT)[0], decoder.forward(tokens_BT, cache=cache)[0]

    whole, cached = both(params)
    # Other products of the same numbers, of logits up to about 4.
    np.testing.assert_allclose(cached, whole, rtol=0, atol=1e-4)
