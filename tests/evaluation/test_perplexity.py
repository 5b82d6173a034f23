import math

import jax
import numpy as np
import pytest
import tiny

from jaxllm.evaluation import Score, make_eval_step, score_sets, total
from jaxllm.nn.param import param_dict
from jaxllm.objectives import CausalLm, LossSums
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.training.step import make_loss

LAYOUT = ParallelConfig(layout="fsdp").build()


class Batches(list):
    """Batches of a text of known size."""

    raw_bytes = 100


def counting_loss(params, batch, keys_B):
    """A loss without a network: each token costs its own number."""
    assert keys_B is None  # evaluation knows no dropout
    scored = batch["tokens"] * batch["loss_mask"]
    return LossSums(-1.0 * scored.sum(), scored.sum(), batch["loss_mask"].sum())


def score_of(*batches, loss=counting_loss, params=None):
    step = make_eval_step(loss, LAYOUT)
    rows = len(batches[0]["tokens"])
    scores = score_sets(step, params, {"set": Batches(batches)}, layout=LAYOUT, rows=rows)
    return scores["set"]


def test_figures_of_a_score():
    score = Score(nll=2000 * math.log(2), num_tokens=500, raw_bytes=1600)
    assert score.bits_per_byte == pytest.approx(2000 / 1600, rel=1e-15)
    assert score.loss == pytest.approx(4 * math.log(2), rel=1e-15)
    assert score.perplexity == pytest.approx(16, rel=1e-14)
    assert Score(nll=1.0, num_tokens=1, raw_bytes=None).bits_per_byte is None
    assert Score(nll=1e6, num_tokens=1, raw_bytes=1).perplexity == math.inf


def test_the_total_weighs_by_tokens_and_bytes():
    parts = [Score(10.0, 4, 20), Score(2.0, 1, 5)]
    assert total(parts) == Score(12.0, 5, 25)
    assert total([*parts, Score(3.0, 2, None)]) == Score(15.0, 7, None)
    assert total(parts[:1]) == parts[0]


def test_sums_every_scored_token_of_every_batch_once():
    batches = [tiny.batch(0), tiny.batch(1, scored=[16, 16, 16, 7, 0, 0, 0, 0])]
    found = score_of(*batches)
    assert found.nll == sum((batch["tokens"] * batch["loss_mask"]).sum() for batch in batches)
    assert found.num_tokens == 8 * 16 + 3 * 16 + 7
    assert found.raw_bytes == 100


def test_sums_over_batches_keep_small_ones():
    """In float32 one would vanish beside 2^25."""
    big, small = tiny.batch(rows=8, scored=[1] + [0] * 7), tiny.batch(rows=8, scored=[1] + [0] * 7)
    big["tokens"] = np.full_like(big["tokens"], 2**25)
    small["tokens"] = np.ones_like(small["tokens"])
    assert score_of(big, small, small).nll == 2**25 + 2


def test_the_device_is_read_once(monkeypatch):
    reads = []
    plain = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: reads.append(tree) or plain(tree))
    score_of(*(tiny.batch(seed) for seed in range(5)))
    assert len(reads) == 1


def test_a_sharded_network_without_dropout():
    """nll is summed by objective and network as without a mesh, and dropout is off."""
    config = tiny.config(num_layers=1, dropout=0.5)
    decoder, batch = tiny.decoder(config), tiny.batch()
    params = param_dict(decoder)
    loss = make_loss(CausalLm(z_loss=1.0), tiny.abstract(config), LAYOUT)
    found = score_of(batch, loss=loss, params=params)
    expected = tiny.fast(lambda batch: CausalLm()(decoder, batch))(batch)
    # The same 128 float32 terms of size four, summed in another order.
    np.testing.assert_allclose(found.nll, float(expected.nll), rtol=1e-6, atol=0)
    assert found.num_tokens == 128
