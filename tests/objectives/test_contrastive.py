"""B batch, N texts, T length, D embed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.objectives import Contrastive, Vocabulary

B, T = 6, 9


def texts(seed, lengths):
    mask = np.arange(T) < np.asarray(lengths)[:, None]
    tokens = np.random.default_rng(seed).integers(1, tiny.VOCAB, (len(lengths), T))
    return {
        "tokens": np.where(mask, tokens, 0).astype(np.int32),
        "segment_ids": mask.astype(np.int32),
        "positions": np.broadcast_to(np.arange(T, dtype=np.int32), mask.shape),
    }


def pairs():
    second = texts(2, (4, 9, 9, 5, 0, 8))
    return {
        **texts(1, (9, 3, 5, 7, 0, 1)),
        **{f"other_{name}": field for name, field in second.items()},
        "loss_mask": np.array([1, 1, 1, 1, 0, 1], np.float32),
    }


@pytest.fixture(scope="module")
def encoder():
    return tiny.decoder(tiny.bert(dropout=0.3, num_layers=1))


@pytest.fixture(scope="module")
def embed(encoder):
    return tiny.fast(lambda batch, keys: Contrastive().predict(encoder, batch, keys_B=keys))


def test_a_text_is_the_mean_of_its_own_tokens(encoder, embed):
    given = texts(1, (9, 3, 5, 7, 2, 1))
    found = embed(given, None)
    assert set(found) == {"embedding"}
    states = np.asarray(
        tiny.fast(encoder)(given["tokens"], segment_ids_BT=given["segment_ids"]).hidden_BTD
    )
    mean = np.stack(
        [row[:n].mean(axis=0) for row, n in zip(states, (9, 3, 5, 7, 2, 1), strict=True)]
    )
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    # float32's rounding over a layer, of vectors of length one
    np.testing.assert_allclose(found["embedding"], wanted, rtol=0, atol=1e-5)


def test_what_is_behind_a_text_does_not_count(embed):
    given = texts(1, (9, 3, 5, 7, 2, 1))
    before = embed(given, None)["embedding"]
    filled = np.where(given["segment_ids"] > 0, given["tokens"], 5)
    after = embed({**given, "tokens": filled}, None)["embedding"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)  # masked scores are exactly 0


def test_both_texts_of_a_pair_are_embedded_as_each_would_be(embed):
    given = pairs()
    found = embed(given, None)
    for prefix in ("", "other_"):
        alone = {name: given[prefix + name] for name in ("tokens", "segment_ids", "positions")}
        np.testing.assert_allclose(
            found[f"{prefix}embedding"], embed(alone, None)["embedding"], rtol=0, atol=1e-6
        )  # another size of the batch


def test_the_same_text_twice_is_dropped_differently(embed):
    """Else a pair of equal texts, as of SimCSE (arXiv:2104.08821), would have nothing to learn."""
    given = pairs()
    for name in ("tokens", "segment_ids", "positions"):
        given[f"other_{name}"] = given[name]
    found = embed(given, jax.random.split(jax.random.key(0), B))
    gap = np.abs(found["embedding"] - found["other_embedding"]).max(axis=1)
    assert np.all(gap[given["loss_mask"] > 0] > 0.01)


def test_pooled_first_and_symmetric():
    """A model whose states are known."""
    states = jnp.asarray(np.random.default_rng(0).normal(size=(2 * B, T, 8)), jnp.float32)
    given, called = pairs(), {}

    def model(tokens_NT, **options):
        called.update(options, tokens=tokens_NT)
        return SimpleNamespace(hidden_BTD=states)

    first = states[:, 0] / jnp.linalg.norm(states[:, 0], axis=1, keepdims=True)
    found = Contrastive(pooling="first").predict(model, given)
    np.testing.assert_allclose(found["embedding"], first[::2], rtol=1e-6)
    np.testing.assert_allclose(found["other_embedding"], first[1::2], rtol=1e-6)
    np.testing.assert_array_equal(called["tokens"][1::2], given["other_tokens"])
    np.testing.assert_array_equal(called["segment_ids_BT"][::2], given["segment_ids"])
    own = np.flatnonzero(given["loss_mask"])
    cosines = np.asarray(first[::2] @ first[1::2].T)[np.ix_(own, own)]
    for is_symmetric in (False, True):
        log_p = [jax.nn.log_softmax(7 * cosines, axis=axis) for axis in (1, 0)[: 1 + is_symmetric]]
        wanted = -np.mean([np.diag(one).sum() for one in log_p])
        objective = Contrastive(pooling="first", scale=7.0, is_symmetric=is_symmetric)
        # float32's rounding of products that the scale makes seven times as large
        np.testing.assert_allclose(objective(model, given).loss, wanted, rtol=1e-5)


def test_a_row_without_text_has_no_gradient_of_nan(encoder):
    def loss(scale):
        def model(tokens, **options):
            encoded = encoder(tokens, **options)
            return encoded._replace(hidden_BTD=scale * encoded.hidden_BTD)

        return Contrastive()(model, pairs()).loss

    value, gradient = tiny.fast(jax.value_and_grad(loss))(1.0)
    assert np.isfinite(value)
    assert abs(gradient) < 1e-4  # lengths do not count; rounding of a loss of size ten


def test_it_reads_rows_as_they_are():
    vocabulary = Vocabulary(9, special_ids=(0,))
    assert Contrastive().arrangement(vocabulary, seed=0) is None
    assert Contrastive().num_ids(vocabulary) == 9
