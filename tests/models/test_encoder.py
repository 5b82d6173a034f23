"""B rows, T length, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import LENGTH, VOCAB, fast

from jaxllm.models import block as block_module
from jaxllm.models import encoder as encoder_module
from jaxllm.models import tower as tower_module
from jaxllm.models.encoder_config import EncoderConfig
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.parallel.layouts import check_weights, weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

LENGTHS = (LENGTH, 11, 6)
# The same numbers are summed at other places of the row, or of the mesh: float32 rounding of
# values of size one, over two layers.
ROUNDING = 1e-5


def config(**changes):
    sizes = {"num_layers": 2, "embed_dim": 32, "num_heads": 4, "mlp_dim": 48, "max_length": 40}
    return EncoderConfig.model_validate(sizes | changes)


def batch(lengths=LENGTHS, seed=0):
    """Tokens, their types, and which are no padding."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), LENGTH)
    mask = (np.arange(LENGTH) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = rng.integers(1, VOCAB, shape).astype(np.int32) * mask
    return tokens, rng.integers(0, 2, shape).astype(np.int32), mask


@pytest.fixture(scope="module")
def encoder():
    return tiny.decoder(config())


@pytest.fixture(scope="module")
def logits_of(encoder):
    """The encoder as one compiled function."""

    def run(tokens, types, segments, positions):
        options = {"segment_ids_BT": segments, "token_types_BT": types, "positions_BT": positions}
        return encoder(tokens, **options).logits

    run = fast(run)
    return lambda *inputs: np.asarray(run(*inputs))


def places(mask):
    return np.broadcast_to(np.arange(LENGTH, dtype=np.int32), mask.shape)


def test_padding_changes_nothing(logits_of, encoder):
    tokens, types, mask = batch()
    before = logits_of(tokens, types, mask, places(mask))
    other = np.where(mask == 1, tokens, 7)
    is_same = np.all(before == logits_of(other, types, mask, places(mask)), axis=-1)
    assert np.all(is_same[mask == 1])  # exact: masked weights are zero
    short = fast(encoder)(tokens[1:2, :11], token_types_BT=types[1:2, :11])
    np.testing.assert_allclose(before[1:2, :11], short.logits, rtol=0, atol=ROUNDING)


def test_packed_texts_equal_separate_ones(logits_of):
    tokens, types, mask = batch((9, 7))
    separate = logits_of(tokens, types, mask, places(mask))
    lengths = (9, 7)

    def packed(rows):
        return np.concatenate([rows[i, :length] for i, length in enumerate(lengths)])[None]

    segments = np.repeat(np.arange(2, dtype=np.int32), lengths)[None]
    found = logits_of(packed(tokens), packed(types), segments, packed(places(mask)))
    np.testing.assert_allclose(found, packed(separate), rtol=0, atol=ROUNDING)


def test_every_token_sees_all_others(logits_of):
    tokens, types, mask = batch((LENGTH,))
    before = logits_of(tokens, types, mask, places(mask))
    for at in (0, LENGTH - 1):
        changed = tokens.copy()
        changed[0, at] = tokens[0, at] % (VOCAB - 1) + 1
        after = logits_of(changed, types, mask, places(mask))
        assert np.all(np.any(before != after, axis=-1))


def test_padding_on_either_side_is_not_counted():
    model = tiny.decoder(config(padding_id=0, num_token_types=0))
    tokens, _, mask = batch()
    run = fast(lambda tokens, mask: model(tokens, segment_ids_BT=mask).logits)
    right = np.asarray(run(tokens, mask))
    rows = zip(range(len(LENGTHS)), LENGTHS, strict=True)
    moved = [(np.roll(tokens[i], -length), np.roll(mask[i], -length)) for i, length in rows]
    left = np.asarray(run(*(np.stack(part) for part in zip(*moved, strict=True))))
    for i, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            left[i, LENGTH - length :], right[i, :length], rtol=0, atol=ROUNDING
        )


SHAPES = {
    "none": (None, None),
    "pooler": ((3, 32), None),
    "masked_lm": (None, (3, LENGTH, VOCAB)),
    "sequence": ((3, 32), (3, 5)),
    "token": (None, (3, LENGTH, 5)),
    "span": (None, (3, LENGTH, 2)),
}


@pytest.mark.parametrize("head", SHAPES)
def test_what_heads_make(head):
    labels = {"num_labels": 5} if head in ("sequence", "token") else {}
    model = tiny.abstract(config(head=head, **labels))
    tokens = batch()[0]
    found = jax.eval_shape(lambda params: bind(model, params)(tokens), param_dict(model))
    shapes = tuple(None if part is None else part.shape for part in found[1:])
    assert (found.hidden_BTD.shape, shapes) == ((3, LENGTH, 32), SHAPES[head])
    names = {path.split(".")[0] for path in paths(model)}
    heads = {"pooler", "vocabulary_head", "label_head"} & names
    expected = {"masked_lm": {"vocabulary_head"}, "sequence": {"pooler", "label_head"}}
    expected |= {"none": set(), "pooler": {"pooler"}}
    assert heads == expected.get(head, {"label_head"})


def paths(model):
    leaves = jax.tree.leaves_with_path(spec_dict(model))
    return [".".join(key.key for key in path) for path, _ in leaves]


def test_weights_follow_the_options():
    plain = set(paths(tiny.abstract(config())))
    last_norm = {"norm.scale", "norm.bias"}
    assert set(paths(tiny.abstract(config(norm_position="pre")))) - plain == last_norm
    assert plain - set(paths(tiny.abstract(config(has_input_norm=False)))) == {
        "input_norm.scale",
        "input_norm.bias",
    }
    assert plain - set(paths(tiny.abstract(config(num_token_types=0)))) == {"type_embed.table"}
    assert plain - set(paths(tiny.abstract(config(attention_bias="out")))) == {
        f"blocks.layers.attention.{name}.bias" for name in ("query", "key", "value")
    }


def masked_loss(model, layout=None):
    """The loss of every third token as a function of the weights, with its gradient."""
    tokens, types, mask = batch((LENGTH, 11, 6, 9) * 2)
    is_hidden = (np.arange(LENGTH) % 3 == 1) & (mask == 1)

    def loss(params):
        read = np.where(is_hidden, 1, tokens)
        options = {"segment_ids_BT": mask, "token_types_BT": types, "layout": layout}
        logits = bind(model, params)(read, **options).logits
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        return -jnp.sum(picked * is_hidden) / jnp.sum(is_hidden)

    return jax.value_and_grad(loss)


@pytest.fixture(scope="module")
def expected(encoder):
    """Loss and gradients on one device, in a loop over the layers."""
    return fast(masked_loss(tiny.abstract(config())))(param_dict(encoder))


def assert_close(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING), found, expected
    )


def test_unrolled_and_recomputed_is_the_same(encoder, expected):
    model = tiny.abstract(config(is_scanned=False, remat="full"))
    assert_close(fast(masked_loss(model))(param_dict(encoder)), expected)


def test_eight_devices_compute_what_one_does(encoder, expected):
    layout = ParallelConfig(layout="fsdp", data=2, tensor=2).build()
    model = tiny.abstract(config())
    specs = spec_dict(model)
    check_weights(layout, specs)
    params = jax.device_put(param_dict(encoder), weight_shardings(layout, specs))
    assert_close(fast(masked_loss(model, layout))(params), expected)


def test_every_weight_moves(expected):
    for path, leaf in jax.tree.leaves_with_path(expected[1]):
        is_still = path[-2].key == "key" and path[-1].key == "bias"  # softmax does not see it
        assert is_still or np.any(np.asarray(leaf)), path


def test_rows_cut_over_devices_are_refused():
    layout = ParallelConfig(layout="fsdp", context=2).build()
    model = tiny.abstract(config())
    with pytest.raises(ValueError, match=r"parallel\.context=2: attention that is not causal"):
        jax.eval_shape(masked_loss(model, layout), param_dict(model))


def test_every_place_in_the_network_has_a_key_of_its_own(monkeypatch):
    seen = []

    def note(x, rate, keys_B, *, layout=None):
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(keys_B))
        return x

    for module in (encoder_module, tower_module, block_module):
        monkeypatch.setattr(module, "dropout", note)
    model = tiny.decoder(config(dropout=0.1, head="sequence", num_labels=3))
    keys = jax.random.split(jax.random.key(0), 3)
    jax.block_until_ready(fast(model)(batch()[0], keys_B=keys))
    jax.effects_barrier()
    # The embedding, two branches a layer, and what the head reads.
    assert len(seen) == len(set(seen)) == 1 + 2 * 2 + 1


def test_activations_have_the_precision_asked_for():
    model = tiny.abstract(config(dtype="bfloat16"))
    tokens = batch()[0]
    found = jax.eval_shape(lambda params: bind(model, params)(tokens), param_dict(model))
    assert found.hidden_BTD.dtype == found.logits.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "token"}, "head=token needs num_labels"),
        ({"num_labels": 3}, r"num_labels=3 is given, but head=masked_lm has no classes"),
        ({"max_length": 4, "padding_id": 3}, "leaves no position behind padding_id=3"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_types_without_a_table_are_refused():
    model = tiny.decoder(config(num_token_types=0))
    with pytest.raises(ValueError, match="num_token_types=0"):
        model(batch()[0], token_types_BT=batch()[1])


def test_rows_longer_than_the_position_table_are_refused():
    model = tiny.abstract(config(max_length=18, padding_id=2))
    tokens = batch()[0]
    with pytest.raises(ValueError, match="is 16, but the model has 15 learned positions"):
        jax.eval_shape(lambda params: bind(model, params)(tokens), param_dict(model))
