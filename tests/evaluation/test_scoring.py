"""Scores of pairs, in batches on a mesh, against the whole network on one row after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import VOCAB, fast

from jaxllm.evaluation import scoring
from jaxllm.evaluation.scoring import Pair, Scorer
from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

USED = VOCAB - 4  # ids from here on are padding
LONGEST = 32
LAYOUT = ParallelConfig(layout="fsdp").build()
CONFIGS = {
    "rope": tiny.config(num_layers=2),
    "learned": tiny.gpt2(num_layers=2, max_length=LONGEST),
}


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch):
    """Several padded lengths and numbers of positions, of few tokens, in quick programs."""
    monkeypatch.setattr(scoring, "_LENGTH", 16)
    monkeypatch.setattr(scoring, "_POSITIONS", 4)
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def weights(name, seed=1):
    """Weights whose likeliest token would often be padding of the vocabulary."""
    params = param_dict(tiny.decoder(CONFIGS[name], seed=seed))
    if "out" in params:
        boost = jnp.where(jnp.arange(VOCAB) >= USED, 3.0, 1.0)
        params["out"]["kernel"] = params["out"]["kernel"] * boost
    return params


def pairs(seed=0, num=21):
    """Pairs of all lengths, more of them short, one with the longest continuation there may be."""
    rng = np.random.default_rng(seed)
    sizes = [(int(rng.integers(1, 40)), int(rng.integers(1, 5))) for _ in range(num - 2)]
    sizes += [(1, LONGEST), (90, 20)]
    return [Pair(*(rng.integers(1, USED, size).tolist() for size in both)) for both in sizes]


def one_row_scorer(name, params):
    """The likelihood of a pair by the definition, and the likeliest tokens in its place."""
    run = fast(lambda params, tokens: bind(tiny.abstract(CONFIGS[name]), params)(tokens))

    def score(pair):
        inputs = [*pair.context, *pair.continuation][:-1][-LONGEST:]
        tokens = np.zeros((1, LONGEST), np.int32)  # what follows is never looked at
        tokens[0, : len(inputs)] = inputs
        logits = np.asarray(run(params, tokens), np.float64)[0, : len(inputs), :USED]
        logits = logits[-len(pair.continuation) :]
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        found = log_probs[np.arange(len(pair.continuation)), list(pair.continuation)]
        return found.sum(), logits.argmax(axis=-1).tolist()

    return score


def scorer(name, layout=LAYOUT, rows=8):
    return Scorer(
        tiny.abstract(CONFIGS[name]),
        vocab_size=USED,
        max_length=LONGEST,
        layout=layout,
        rows=rows,
    )


def assert_equal(found, expected):
    # Sums of up to 32 float32 terms of size four.
    scores = [log_prob for log_prob, _ in expected]
    np.testing.assert_allclose([one.log_prob for one in found], scores, rtol=2e-6, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_on_a_mesh_equals_row_by_row(name):
    params, given = weights(name), pairs()
    one_row = one_row_scorer(name, params)
    expected = [one_row(pair) for pair in given]
    # One continuation is made the likeliest one, token after token.
    context, ids = [5, 9, 11], []
    for _ in range(3):
        ids.append(one_row(Pair(context, [*ids, 1]))[1][-1])
    given[0] = Pair(context, ids)
    expected[0] = one_row(given[0])
    found = scorer(name)(params, given)
    assert_equal(found, expected)
    assert [one.is_greedy for one in found] == [
        list(pair.continuation) == best for pair, (_, best) in zip(given, expected, strict=True)
    ]
    assert found[0].is_greedy
    assert not all(one.is_greedy for one in found)


@pytest.mark.parametrize(
    "degrees",
    [
        {"context": 2, "tensor": 2},
        {"context": 2, "context_attention": "ulysses"},
        {"stage": 2, "pipeline_microbatches": 4, "pipeline_rounds": 1},
    ],
    ids=lambda degrees: "-".join(map(str, degrees.values())),
)
def test_every_layout_of_a_run_gives_the_same(degrees):
    params, given = weights("rope"), pairs(num=6)
    one_row = one_row_scorer("rope", params)
    layout = ParallelConfig(layout="fsdp", **degrees).build()
    specs = spec_dict(tiny.abstract(CONFIGS["rope"]))
    specs = fold_specs(specs, layout.pipeline.num_rounds if layout.pipeline else 1)
    placed = jax.device_put(fold(params, specs), weight_shardings(layout, specs))
    found = scorer("rope", layout, rows=16)(placed, given)
    assert_equal(found, [one_row(pair) for pair in given])


def test_few_programs_the_longest_first_and_as_many_tokens_in_each(monkeypatch):
    shapes = []
    plain = scoring._score

    def counted(model, params, batch, **settings):
        shapes.append((*batch["tokens"].shape, settings["num_positions"], settings["chunk"]))
        return plain(model, params, batch, **settings)

    monkeypatch.setattr(scoring, "_score", counted)
    score, params = scorer("rope"), weights("rope")
    given = [Pair([1] * size, [2] * targets) for size in (3, 7, 20, 50) for targets in (1, 2, 9)]
    told = []
    score(params, given, on_scored=told.append)
    # Rows, length, positions, positions at once: 8 x 32 tokens, and logits of 8 x 4 positions.
    assert shapes == [(8, 32, 16, 4), (8, 32, 4, 4), (16, 16, 16, 2), (16, 16, 4, 2)]
    assert sum(told) == len(given)
    score(params, pairs(num=30))
    assert len(shapes) == len({*shapes})


def test_what_cannot_be_scored():
    score = scorer("rope")
    assert score(None, []) == []
    with pytest.raises(ValueError, match=r"continuation of 33 tokens .* at most 32 \(data\.seq"):
        score(None, [Pair([1], [2] * 33)])
    with pytest.raises(ValueError, match="continuation of 0 tokens cannot be scored"):
        score(None, [Pair([1], [])])
    with pytest.raises(ValueError, match="context is nothing but spaces"):
        score(None, [Pair([1], [2]), Pair([], [2, 3])])
