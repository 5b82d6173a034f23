"""B rows, T length, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import LENGTH, VOCAB, fast

from jaxllm.models import block as block_module
from jaxllm.models import decoder as decoder_module
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.objectives import CausalLm

LLAMA = tiny.config(qk_norm="head", logit_soft_cap=5.0)
GPT2 = tiny.gpt2()
CONFIGS = {
    "rope": LLAMA,
    "learned": GPT2,
    "windows": tiny.gemma(),
    "latent": tiny.deepseek(),
}


@pytest.fixture(scope="module", params=CONFIGS)
def decoder(request):
    return tiny.decoder(CONFIGS[request.param])


@pytest.fixture(scope="module")
def logits_of(decoder):
    """The decoder as one compiled function."""

    def run(tokens, segment_ids, positions):
        return decoder(tokens, segment_ids_BT=segment_ids, positions_BT=positions)

    return fast(run)


def packed_row(lengths):
    """Random ids of documents one after the other, with their segments and positions."""
    tokens = np.random.default_rng(0).integers(1, VOCAB, (1, sum(lengths))).astype(np.int32)
    segments = np.repeat(np.arange(len(lengths)), lengths)[None].astype(np.int32)
    positions = np.concatenate([np.arange(length) for length in lengths])[None].astype(np.int32)
    return tokens, segments, positions


def test_packed_documents_equal_separate_ones(logits_of):
    lengths = (5, 8, 3)
    tokens, segments, positions = packed_row(lengths)
    packed = logits_of(tokens, segments, positions)
    start = 0
    for length in lengths:
        # Alone in a row of the same length, so that one program serves; what follows the
        # document is never looked at (see the next test).
        alone = np.zeros_like(tokens)
        alone[:, :length] = tokens[:, start : start + length]
        one_document = np.zeros_like(tokens)
        expected = logits_of(alone, one_document, np.arange(LENGTH, dtype=np.int32)[None])
        # The same numbers are summed at other places of the row: float32 rounding of values
        # of size one, over three layers.
        np.testing.assert_allclose(
            packed[:, start : start + length], expected[:, :length], rtol=0, atol=1e-5
        )
        start += length


def test_another_document_changes_nothing(logits_of):
    tokens, segments, positions = packed_row((5, 8, 3))
    before = logits_of(tokens, segments, positions)
    changed = np.where(segments == 1, tokens % (VOCAB - 1) + 1, tokens)
    after = logits_of(changed, segments, positions)
    is_same = np.all(before == after, axis=-1)
    np.testing.assert_array_equal(is_same, segments != 1)  # exact: masked weights are zero


def test_the_future_changes_nothing(logits_of):
    tokens, _, _ = packed_row((LENGTH,))
    segments, positions = np.zeros_like(tokens), np.arange(LENGTH, dtype=np.int32)[None]
    before = logits_of(tokens, segments, positions)
    for at in (1, 9, LENGTH - 1):
        changed = tokens.copy()
        changed[0, at] = tokens[0, at] % (VOCAB - 1) + 1
        is_same = np.all(before == logits_of(changed, segments, positions), axis=-1)[0]
        np.testing.assert_array_equal(is_same, np.arange(LENGTH) < at)


def test_one_document_is_the_default(decoder, logits_of):
    tokens, segments, positions = packed_row((LENGTH,))
    np.testing.assert_array_equal(fast(decoder)(tokens), logits_of(tokens, segments, positions))


def example_keys(rows):
    return jax.random.split(jax.random.key(0), rows)


def test_scanned_unrolled_and_recomputed_are_equal():
    batch = tiny.batch(rows=2)
    shared = {"num_layers": 2, "qk_norm": "head", "logit_soft_cap": 5.0}
    params = param_dict(tiny.decoder(tiny.config(**shared)))
    expected = None
    for is_scanned, remat, offload in [
        (True, "none", "none"),
        (True, "full", "none"),
        (False, "dots", "none"),
        (True, "qkv", "none"),
        (False, "qkv_mlp", "none"),
        (True, "matmuls", "none"),
        (True, "full", "qkv"),
        (True, "qkv", "qkv_mlp"),
    ]:
        options = {"remat": remat, "offload": offload, "is_scanned": is_scanned}
        model = tiny.abstract(tiny.config(**shared, **options))

        def loss(params, model=model):
            return CausalLm()(bind(model, params), batch).loss

        found = fast(jax.value_and_grad(loss))(params)
        expected = expected or found
        # The same sums in another order: float32 rounding of gradients of size ten.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
        )


OPTIONS = {
    "llama": tiny.config(num_layers=2, dtype="bfloat16", num_kv_heads=1),
    "modern": tiny.config(
        num_layers=2,
        qk_norm="head",
        is_gated=False,
        activation="relu_squared",
        residual_init="zero",
        output_init="zero",
        head_dim=16,
        logit_soft_cap=30.0,
    ),
    "gpt2": tiny.gpt2(num_layers=2, dropout=0.1),
    "mixed": tiny.config(
        num_layers=2, norm="layer", use_bias=True, activation="gelu_exact", is_tied=True
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_gives_finite_gradients(name):
    config, batch, keys = OPTIONS[name], tiny.batch(rows=2), example_keys(2)

    def mean_loss(params):
        sums = CausalLm()(bind(tiny.abstract(config), params), batch, keys_B=keys)
        return sums.loss / sums.num_tokens

    @fast
    def start(key):
        return jax.value_and_grad(mean_loss)(param_dict(config.build(key, VOCAB)))

    loss, gradients = start(jax.random.key(0))
    assert 3.5 < loss < 5.5  # about ln(64) = 4.16 with weights that know nothing
    moving = 0
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert leaf.dtype == jnp.float32, path
        assert np.all(np.isfinite(leaf)), path
        moving += bool(np.any(leaf != 0))
    if config.output_init == "zero":
        assert np.any(gradients["out"]["kernel"] != 0)  # the rest follows one step later
        assert moving == 1
    else:
        # Only the bias of the keys may stand still: softmax does not see it.
        assert len(jax.tree.leaves(gradients)) - moving <= config.use_bias


def test_weights_follow_the_options():
    def names(**changes):
        specs = spec_dict(tiny.abstract(tiny.config(**changes)))
        return {".".join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(specs)}

    plain = names()
    assert plain - names(is_tied=True) == {"out.kernel"}
    assert plain - names(is_gated=False) == {"blocks.layers.mlp.gate.kernel"}
    assert names(positions="learned") - plain == {"position_embed.table"}
    attention = "blocks.layers.attention"
    assert names(qk_norm="head") - plain == {
        f"{attention}.query_norm.scale",
        f"{attention}.key_norm.scale",
    }
    biases = names(use_bias=True) - plain
    assert biases == {
        *(f"{attention}.{part}.bias" for part in ("query", "key", "value", "out")),
        *(f"blocks.layers.mlp.{part}.bias" for part in ("up", "gate", "down")),
    }
    layer_norms = {"norm.bias", "blocks.layers.attention_norm.bias", "blocks.layers.mlp_norm.bias"}
    assert names(use_bias=True, norm="layer") - plain - biases == layer_norms


def test_tied_logits_are_products_with_the_embedding():
    config = tiny.config(is_tied=True)
    decoder = tiny.decoder(config)
    doubled = param_dict(decoder)
    # Behind the last norm the scale multiplies the logits, whatever ties them.
    doubled = doubled | {"norm": {"scale": 2 * doubled["norm"]["scale"]}}
    tokens = tiny.batch(rows=1)["tokens"]
    run = fast(lambda params: bind(decoder, params)(tokens))
    np.testing.assert_array_equal(run(doubled), 2 * run(param_dict(decoder)))
    # And the embedding of a token that is not in the text moves that token's logit alone.
    absent = next(token for token in range(VOCAB) if token not in tokens)
    params = param_dict(decoder)
    table = np.array(params["embed"]["table"])
    table[absent] *= 2
    moved = run(params | {"embed": {"table": table}}) != run(params)
    np.testing.assert_array_equal(moved.any(axis=(0, 1)), np.arange(VOCAB) == absent)


def test_soft_cap_bounds_the_logits():
    tokens = tiny.batch(rows=1)["tokens"]
    plain = fast(tiny.decoder(tiny.config()))(tokens)
    capped = fast(tiny.decoder(tiny.config(logit_soft_cap=0.5)))(tokens)
    assert np.abs(plain).max() > 1
    # tanh is good to a few float32 roundings.
    np.testing.assert_allclose(capped, 0.5 * np.tanh(plain / 0.5), rtol=0, atol=1e-5)


def test_activations_have_the_precision_asked_for():
    tokens = tiny.batch(rows=1)["tokens"]

    def dtype(name):
        model = tiny.abstract(tiny.config(dtype=name))
        run = lambda params: bind(model, params)(tokens)  # noqa: E731
        return jax.eval_shape(run, param_dict(model)).dtype

    assert dtype("bfloat16") == jnp.bfloat16
    assert dtype("float32") == jnp.float32
    assert dtype("auto") == jnp.float32  # on a CPU


def test_dropout_is_off_without_keys():
    tokens = tiny.batch(rows=2)["tokens"]

    def program(rate, keys_B=None):
        model = tiny.abstract(tiny.config(dropout=rate))
        run = lambda params: bind(model, params)(tokens, keys_B=keys_B)  # noqa: E731
        return str(jax.make_jaxpr(run)(param_dict(model)))

    assert program(0.0) == program(0.5)
    assert program(0.5) != program(0.5, example_keys(2))


def test_every_place_in_the_network_has_a_key_of_its_own(monkeypatch):
    seen = []

    def note(x, rate, keys_B, *, layout):
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(keys_B))
        return x

    for module in (decoder_module, block_module):
        monkeypatch.setattr(module, "dropout", note)
    decoder, tokens = tiny.decoder(tiny.config(dropout=0.1)), tiny.batch(rows=2)["tokens"]
    jax.block_until_ready(fast(decoder)(tokens, keys_B=example_keys(2)))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 1 + 2 * 3  # the embedding, two branches a layer


@pytest.mark.parametrize("is_tied", [False, True])
def test_a_loss_in_chunks_is_the_whole_loss(is_tied):
    batch = tiny.batch(rows=2)
    model = tiny.decoder(tiny.config(num_layers=1, is_tied=is_tied, logit_soft_cap=5.0))

    def loss(params, num_chunks):
        objective = CausalLm(z_loss=0.1, num_chunks=num_chunks)
        return objective(bind(model, params), batch).loss

    whole, parts = (
        fast(jax.value_and_grad(lambda params, n=n: loss(params, n)))(param_dict(model))
        for n in (1, 4)
    )
    # The same sums in another order: float32 rounding of a loss of hundreds.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), parts, whole)
