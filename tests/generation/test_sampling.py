"""B rows, V vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jaxllm.generation import Sampling

B, V = 6, 40


def random_logits(seed=0):
    return 2 * np.random.default_rng(seed).normal(size=(B, V)).astype(np.float32)


def allowed_by_definition(logits_V, *, temperature, top_k, top_p):
    """The tokens that may be drawn, by sorting: first the top k, then the nucleus of those."""
    order = np.argsort(-logits_V)[: top_k or V]
    scaled = logits_V[order].astype(np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    before = np.cumsum(probabilities) - probabilities
    return set(order[before < top_p].tolist())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, 1.0), (5, 1.0), (None, 0.7), (5, 0.7)])
def test_filters_leave_what_the_definition_leaves(temperature, top_k, top_p):
    logits = random_logits()
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    filtered = np.asarray(sampling.filtered(jnp.asarray(logits)))
    for row in range(B):
        allowed = allowed_by_definition(
            logits[row], temperature=temperature, top_k=top_k, top_p=top_p
        )
        assert set(np.flatnonzero(np.isfinite(filtered[row])).tolist()) == allowed
        kept = sorted(allowed)
        # One division in float32.
        np.testing.assert_allclose(
            filtered[row, kept], logits[row, kept] / temperature, rtol=1e-6, atol=0
        )


def draw_many(sampling, logits_V, count):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(sampling.draw(keys, jnp.broadcast_to(logits_V, (count, V))))


def test_draws_have_the_probabilities_of_softmax():
    logits, count = random_logits()[0], 20_000
    counts = np.bincount(draw_many(Sampling(temperature=2.0), logits, count), minlength=V)
    scaled = logits.astype(np.float64) / 2
    expected = np.exp(scaled) / np.exp(scaled).sum()
    # Counts are off by sqrt(n p (1 - p)); five of those, for each of 40 tokens.
    assert np.all(np.abs(counts - count * expected) < 5 * np.sqrt(count * expected) + 1)


def test_only_allowed_tokens_are_drawn():
    logits = random_logits()[1]
    sampling = Sampling(temperature=1.5, top_k=6, top_p=0.7)
    drawn = draw_many(sampling, logits, 5000)
    allowed = allowed_by_definition(logits, temperature=1.5, top_k=6, top_p=0.7)
    assert 1 < len(allowed) < 6
    assert set(drawn.tolist()) == allowed


def test_temperature_zero_takes_the_likeliest():
    logits = jnp.asarray(random_logits())
    keys = jax.random.split(jax.random.key(0), B)
    drawn = Sampling(temperature=0.0, top_k=3, top_p=0.5).draw(keys, logits)
    assert drawn.dtype == jnp.int32
    np.testing.assert_array_equal(drawn, np.argmax(logits, axis=-1))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}])
def test_the_narrowest_filter_leaves_the_likeliest(options):
    logits = random_logits()
    drawn = draw_many(Sampling(temperature=5.0, **options), logits[2], 200)
    assert set(drawn.tolist()) == {int(np.argmax(logits[2]))}


def test_each_row_draws_with_its_own_key():
    logits = jnp.asarray(random_logits())
    keys = jax.random.split(jax.random.key(1), B)
    together = np.asarray(Sampling().draw(keys, logits))
    alone = [int(Sampling().draw(keys[i : i + 1], logits[i : i + 1])[0]) for i in range(B)]
    assert together.tolist() == alone


def test_bfloat16_logits_and_a_k_beyond_the_vocabulary():
    logits = jnp.asarray(random_logits(), jnp.bfloat16)
    filtered = Sampling(top_k=V + 1).filtered(logits)
    assert filtered.dtype == jnp.float32
    assert np.isfinite(filtered).all()


@pytest.mark.parametrize(
    "options",
    [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}],
)
def test_values_out_of_range(options):
    with pytest.raises(ValidationError, match=next(iter(options))):
        Sampling(**options)
