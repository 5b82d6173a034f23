"""B rows, S source length, T target length, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import VOCAB, fast

from jaxllm.models import block as block_module
from jaxllm.models import encoder_decoder as model_module
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import batch_sharding

B, S, T = 8, 12, 6
START = 63


def make_config(**changes):
    """T5; the decoder is shallower than the encoder, and narrower in its feed-forward layers."""
    sizes = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48}
    decoder = {"num_decoder_layers": 1, "decoder_mlp_dim": 40}
    positions = {"num_buckets": 8, "max_distance": 10}
    return EncoderDecoderConfig.model_validate(sizes | decoder | positions | changes)


def marian(**changes):
    """The original Transformer: sines, norms behind branches, biases, one table for all."""
    options = {
        "num_decoder_heads": 2,
        "positions": "sinusoidal",
        "norm": "layer",
        "norm_position": "post",
        "use_bias": True,
        "is_gated": False,
        "activation": "relu",
        "is_embed_scaled": True,
        "is_tied": True,
        "has_output_bias": True,
        "start_id": START,
        "padding_id": START,
    }
    return make_config(**(options | changes))


T5 = make_config(is_tied=True, is_output_scaled=True)
CONFIGS = {"t5": T5, "marian": marian()}


def batch():
    """Sources of 3 to 12 tokens, and targets."""
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(1, VOCAB - 1, (B, S)), rng.integers(1, VOCAB - 1, (B, T))
    targets[:, 0] = START
    mask = np.arange(S) < np.array([12, 3, 7, 12, 5, 9, 4, 11])[:, None]
    return sources.astype(np.int32), targets.astype(np.int32), mask.astype(np.int32)


@pytest.fixture(scope="module", params=CONFIGS)
def network(request):
    return tiny.decoder(CONFIGS[request.param])


@pytest.fixture(scope="module")
def logits_of(network):
    """The network as one compiled function."""
    return fast(lambda source, target, mask: network(source, target, encoder_mask_BS=mask))


def other(tokens):
    """Ids that are all different from these."""
    return tokens % (VOCAB - 2) + 1


def test_padding_of_sources_changes_nothing(network, logits_of):
    source, target, mask = batch()
    before = logits_of(source, target, mask)
    after = logits_of(np.where(mask == 1, source, other(source)), target, mask)
    np.testing.assert_array_equal(before, after)
    assert np.abs(before - logits_of(source, target, np.ones_like(mask))).max() > 0.01


def test_every_source_token_is_seen_from_the_first_target_token_on(logits_of):
    source, target, mask = batch()
    before = np.asarray(logits_of(source, target, mask))
    for at in (0, S - 1):
        changed = source.copy()
        changed[:, at] = other(changed[:, at])
        after = np.asarray(logits_of(changed, target, mask))
        differs = np.any(before != after, axis=-1)
        np.testing.assert_array_equal(differs, np.repeat(mask[:, at : at + 1] == 1, T, axis=1))


def test_the_targets_future_changes_nothing(logits_of):
    source, target, mask = batch()
    before = logits_of(source, target, mask)
    for at in (1, T - 1):
        changed = target.copy()
        changed[:, at] = other(target[:, at])
        is_same = np.all(before == logits_of(source, changed, mask), axis=(0, 2))
        np.testing.assert_array_equal(is_same, np.arange(T) < at)


def test_a_source_of_padding_alone_is_finite(logits_of):
    """As in the rows that fill up the last batch of an evaluation."""
    source, target, mask = batch()
    mask[1] = 0
    assert np.all(np.isfinite(logits_of(source, target, mask)))


def test_parts_of_a_target_do_not_see_each_other():
    network = tiny.decoder(T5)
    source, target, mask = batch()
    parts = np.repeat([[0, 0, 1, 1, 1, 1]], B, axis=0).astype(np.int32)

    @fast
    def run(target):
        return network(source, target, encoder_mask_BS=mask, decoder_segment_ids_BT=parts)

    changed = np.where(parts == 0, other(target), target)
    is_same = np.all(run(target) == run(changed), axis=(0, 2))
    np.testing.assert_array_equal(is_same, parts[0] == 1)


def test_cached_equals_uncached(network, logits_of):
    source, target, mask = batch()

    @fast
    def in_pieces():
        memory = network.encode(source, mask)
        cache, pieces = network.empty_cache(memory, T + 2), []
        for first, last in ((0, 4), (4, T)):
            logits, cache = network.decode(
                target[:, first:last], memory, positions_T=jnp.arange(first, last), cache=cache
            )
            pieces.append(logits)
        return jnp.concatenate(pieces, axis=1)

    # Sums over eight slots instead of six, most of them times zero: float32 rounding.
    np.testing.assert_allclose(in_pieces(), logits_of(source, target, mask), rtol=0, atol=1e-5)


def loss_and_gradients(config, params, layout=None):
    """Of the mean negative log-likelihood of the target's own tokens."""
    arrays, model = batch(), tiny.abstract(config)
    if layout is not None:
        arrays = [jax.device_put(array, batch_sharding(layout, 2)) for array in arrays]

    def loss(params, source, target, mask):
        logits = bind(model, params)(source, target, encoder_mask_BS=mask, layout=layout)
        is_target = target[..., None] == jnp.arange(VOCAB)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * is_target, axis=-1))

    return jax.device_get(fast(jax.value_and_grad(loss))(params, *arrays))


def test_eight_devices_compute_what_one_does():
    params = param_dict(tiny.decoder(T5))
    layout = ParallelConfig(layout="fsdp", tensor=2).build()
    placed = jax.device_put(params, weight_shardings(layout, spec_dict(tiny.abstract(T5))))
    # The same sums in another order: float32 rounding of gradients of size one.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6),
        loss_and_gradients(T5, placed, layout),
        loss_and_gradients(T5, params),
    )


def test_unrolled_equals_scanned(network, logits_of):
    config = network.config.model_copy(update={"is_scanned": False})
    source, target, mask = batch()
    params, unrolled = param_dict(network), tiny.abstract(config)
    run = fast(lambda params: bind(unrolled, params)(source, target, encoder_mask_BS=mask))
    # The same sums in another order: float32 rounding of values of size one.
    expected = logits_of(source, target, mask)
    np.testing.assert_allclose(run(params), expected, rtol=0, atol=1e-5)


def test_a_pipeline_computes_what_one_device_does():
    network = tiny.decoder(marian(num_decoder_layers=2))
    layout = ParallelConfig(layout="fsdp", stage=2).build()
    whole, in_stages = (
        fast(lambda *arrays, on=on: network(*arrays[:2], encoder_mask_BS=arrays[2], layout=on))
        for on in (None, layout)
    )
    # The same sums in another order: float32 rounding of values of size one.
    np.testing.assert_allclose(in_stages(*batch()), whole(*batch()), rtol=0, atol=1e-5)


def test_a_pipeline_of_biases_by_distance_is_refused():
    network, (source, target, _) = tiny.decoder(T5), batch()
    layout = ParallelConfig(layout="fsdp", stage=2).build()
    with pytest.raises(ValueError, match=r"parallel\.stage=2: .*model\.positions=relative"):
        jax.eval_shape(lambda: network(source, target, layout=layout))


def test_every_place_in_the_network_has_a_key_of_its_own(monkeypatch):
    seen = []

    def note(x, rate, keys_B, *, layout):
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(keys_B))
        return x

    for module in (model_module, block_module):
        monkeypatch.setattr(module, "dropout", note)
    network, (source, target, _) = tiny.decoder(make_config(dropout=0.1)), batch()
    keys = jax.random.split(jax.random.key(0), B)
    jax.block_until_ready(fast(network)(source, target, keys_B=keys))
    jax.effects_barrier()
    # Two embeddings, two branches a layer of the encoder and three of the decoder.
    assert len(seen) == len(set(seen)) == 2 + 2 * 2 + 3 * 1


def test_activations_have_the_precision_asked_for():
    source, target, mask = batch()
    for name in ("t5", "marian"):
        config = CONFIGS[name].model_copy(update={"dtype": "bfloat16"})
        model = tiny.abstract(config)
        run = lambda params, m=model: bind(m, params)(source, target, encoder_mask_BS=mask)  # noqa: E731
        assert jax.eval_shape(run, param_dict(model)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_decoder_heads": 3}, "num_decoder_heads=3 does not divide embed_dim=32"),
        ({"num_kv_heads": 4, "num_decoder_heads": 2}, "does not divide num_decoder_heads=2"),
        ({"positions": "sinusoidal", "embed_dim": 33, "num_heads": 3}, "embed_dim=33 is odd"),
        ({"num_buckets": 7}, "num_buckets=7; make it an even number"),
        ({"max_distance": 4}, "max_distance=4 is within the 4 nearest"),
    ],
)
def test_a_config_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def test_a_decoder_like_the_encoder_is_said_once():
    same = make_config(num_decoder_layers=2, num_decoder_heads=4, decoder_mlp_dim=48)
    assert same == make_config(num_decoder_layers=None, decoder_mlp_dim=None)
    assert same.decoder == same
    assert make_config().stack_depths == (2, 1)
