"""B rows, T length, V vocabulary."""

import jax
import numpy as np
import pytest
import tiny
from pydantic import ValidationError

from jaxllm.objectives import CausalLm

V = tiny.VOCAB


def logits_for(batch):
    return np.random.default_rng(1).normal(size=(*batch["tokens"].shape, V)).astype(np.float32)


def exact_sums(batch, logits_BTV):
    """Summed -log p and summed squared log-normaliser where the mask is on, in float64."""
    logits = logits_BTV.astype(np.float64)
    normalizer = np.log(np.exp(logits).sum(axis=-1))
    target = np.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
    is_scored = batch["loss_mask"] > 0
    return (normalizer - target)[is_scored].sum(), (normalizer**2)[is_scored].sum()


class Fixed:
    """A model whose logits are given, and which notes what it is called with."""

    def __init__(self, logits, router=None):
        self.given, self.router, self.seen = logits, router, {}

    def hidden(self, tokens, **arguments):
        self.seen = {**arguments, "tokens": tokens}
        return "hidden", self.router

    def logits(self, x, *, layout):
        assert (x, layout) == ("hidden", self.seen["layout"])
        return self.given


def test_sums_over_scored_targets():
    batch = tiny.batch(rows=3, scored=[16, 5, 0])
    logits = logits_for(batch)
    sums = CausalLm()(Fixed(logits), batch)
    nll, _ = exact_sums(batch, logits)
    np.testing.assert_allclose(sums.nll, nll, rtol=1e-6)  # float32 rounding of the sum
    assert sums.loss == sums.nll
    assert sums.num_tokens == 21


def test_z_loss_adds_the_squared_normaliser():
    batch = tiny.batch(rows=3, scored=[16, 5, 0])
    logits = logits_for(batch)
    sums = CausalLm(z_loss=0.25)(Fixed(logits), batch)
    nll, squares = exact_sums(batch, logits)
    np.testing.assert_allclose(sums.nll, nll, rtol=1e-6)
    np.testing.assert_allclose(sums.loss, nll + 0.25 * squares, rtol=1e-6)


def test_unscored_targets_change_nothing():
    batch = tiny.batch(rows=2, scored=[9, 4])
    logits = logits_for(batch)
    changed = batch | {"targets": np.where(batch["loss_mask"] > 0, batch["targets"], 3)}
    assert np.any(changed["targets"] != batch["targets"])
    one, other = (CausalLm(z_loss=0.1)(Fixed(logits), b) for b in (batch, changed))
    assert jax.device_get(one) == jax.device_get(other)


def test_the_model_gets_segments_positions_and_keys():
    batch = tiny.batch(rows=2)
    model = Fixed(logits_for(batch))
    CausalLm()(model, batch, keys_B="keys", layout="layout")
    seen = model.seen
    assert seen["tokens"] is batch["tokens"]
    assert seen["segment_ids_BT"] is batch["segment_ids"]
    assert seen["positions_BT"] is batch["positions"]
    assert (seen["keys_B"], seen["layout"]) == ("keys", "layout")


def test_the_sums_of_routers_are_handed_on():
    batch = tiny.batch(rows=1)
    assert CausalLm()(Fixed(logits_for(batch)), batch).router is None
    assert CausalLm()(Fixed(logits_for(batch), "sums"), batch).router == "sums"


def test_declares_the_fields_it_reads():
    batch = tiny.batch(rows=2)
    needed = {name: batch[name] for name in CausalLm().batch_fields}
    CausalLm()(Fixed(logits_for(batch)), needed)
    for name in needed:
        rest = {other: field for other, field in needed.items() if other != name}
        with pytest.raises(KeyError, match=name):
            CausalLm()(Fixed(logits_for(batch)), rest)


def test_a_negative_z_loss_is_refused():
    with pytest.raises(ValidationError, match="z_loss"):
        CausalLm(z_loss=-1.0)
