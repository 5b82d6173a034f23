"""Beam search: it finds the best there is, and each source's targets are its own.

B sources, V vocabulary, G beams.
"""

import itertools
import re
from functools import cache

import jax
import numpy as np
import pytest
import tiny
from tiny import VOCAB, fast

from jaxllm.generation.beam import BeamSearch
from jaxllm.generation.translate import Translator
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.nn.param import bind, param_dict

USED, FORBIDDEN, STOP = 5, 2, 4  # ids of so few words that all targets can be enumerated
START, NEW = 3, 3
STOPS = tuple(range(0, VOCAB, 7))  # so many that targets end before they have to
SOURCES = [[5, 9, 11], [7], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]]
SIZES = {"num_layers": 1, "embed_dim": 36, "num_heads": 4, "mlp_dim": 48, "head_dim": 13}
CONFIG = EncoderDecoderConfig.model_validate(SIZES | {"num_buckets": 4, "max_distance": 5})
# A sum of a few log p that float32 moves by about 1e-6, divided by a length from 1 on.
ROUNDING = 2e-5


@cache
def weights():
    return param_dict(tiny.decoder(CONFIG, seed=1))


def make(num_beams=4, length_penalty=0.5, **options):
    search = BeamSearch(num_beams=num_beams, length_penalty=length_penalty)
    usual = {"vocab_size": VOCAB, "max_tokens": 8, "start_id": START, "stop_ids": STOPS}
    return Translator(tiny.abstract(CONFIG), **(usual | {"search": search} | options))


def every_target(forced_id):
    """All that may be written: words, and how many of these are scored."""
    words = [token for token in range(USED) if token not in (STOP, FORBIDDEN)]
    for length in range(NEW + 1):
        for ids in itertools.product(words, repeat=length):
            if length < NEW:
                yield (*ids, STOP)
            elif forced_id is None:
                yield ids


@cache
def log_p():
    """Source and target -> log p of its tokens, by the whole network over USED ids."""
    run = fast(lambda params, *rows: bind(tiny.abstract(CONFIG), params)(*rows))

    def score(source, targets):
        rows = np.zeros((len(targets), NEW), np.int32)
        for row, target in zip(rows, targets, strict=True):
            row[: len(target)] = target
        read = np.concatenate([np.full((len(rows), 1), START), rows[:, :-1]], axis=1)
        source = np.repeat([source], len(rows), axis=0)
        logits = np.asarray(run(weights(), source, read), np.float64)[..., :USED]
        logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return np.take_along_axis(logits, rows[..., None], axis=-1)[..., 0]

    return score


@pytest.mark.parametrize(
    ("length_penalty", "forced_id"),
    [(1.7, None), pytest.param(0.0, STOP, marks=pytest.mark.slow)],
)
def test_many_beams_find_the_best_of_all_targets(length_penalty, forced_id):
    """In their order, with their scores, and nothing else."""
    found = make(
        num_beams=70,
        length_penalty=length_penalty,
        vocab_size=USED,
        max_tokens=NEW,
        stop_ids=(STOP,),
        forbidden_ids=(FORBIDDEN,),
        forced_id=forced_id,
    ).ranked(weights(), SOURCES[:1])[0]
    targets = list(every_target(forced_id))
    scores = {}
    for target, log_ps in zip(targets, log_p()(SOURCES[0], targets), strict=True):
        is_forced = forced_id is not None and len(target) == NEW
        total = log_ps[: len(target) - is_forced].sum()  # what is forced is certain
        ids = target[:-1] if target[-1] == STOP else target
        scores[ids] = total / len(target) ** length_penalty
    assert {tuple(one.ids) for one in found} == scores.keys()
    assert len(found) == len(scores)
    values = [one.score for one in found]
    assert values == sorted(values, reverse=True)
    np.testing.assert_allclose(values, [scores[tuple(one.ids)] for one in found], atol=ROUNDING)


@cache
def together():
    return make().ranked(weights(), SOURCES)


def test_a_batch_gives_what_each_source_gives_alone():
    alone = make()
    lengths = set()
    for source, found in zip(SOURCES, together(), strict=True):
        (expected,) = alone.ranked(weights(), [source])
        assert [one.ids for one in found] == [one.ids for one in expected]
        np.testing.assert_allclose(
            [one.score for one in found], [one.score for one in expected], atol=ROUNDING
        )
        assert len({tuple(one.ids) for one in found}) == len(found) == 4
        lengths |= {len(one.ids) for one in found}
    assert len(lengths) > 2, "targets that end alike would prove little"
    assert make()(weights(), SOURCES) == [found[0].ids for found in together()]


@cache
def greedy():
    return make(num_beams=1)(weights(), SOURCES)


def test_one_beam_is_greedy():
    """The search finds what the loop of its own does."""
    found = make(num_beams=1, length_penalty=2.0).ranked(weights(), SOURCES)
    assert [[best.ids] for (best,) in found] == [[ids] for ids in greedy()]
    assert greedy() != [found[0].ids for found in together()], "more beams found nothing better"


@pytest.mark.slow  # searches that do so are compared with transformers'
def test_greedy_targets_leave_out_what_is_forbidden_and_end_as_forced():
    first = greedy()[0][0]
    held = make(num_beams=1, max_tokens=3, stop_ids=(), forbidden_ids=(first,), forced_id=first)
    for ids in held(weights(), SOURCES):
        assert len(ids) == 3
        assert first not in ids[:-1]
        assert ids[-1] == first
    with pytest.raises(ValueError, match="forbidden_ids are all 2 ids"):
        make(vocab_size=2, forbidden_ids=(1, 0))


def test_a_source_is_read_by_all_its_beams():
    """No array of the program has the beams' own copies of its keys, once or at every token."""
    num_beams, padded = 7, 32
    searched = make(num_beams=num_beams)
    sources = jax.ShapeDtypeStruct((3, padded), np.int32)
    mask = jax.ShapeDtypeStruct((3, padded), bool)
    program = searched._beams.lower(weights(), sources, mask).as_text()
    shapes = {
        tuple(map(int, dims.split("x")[:-1]))
        for dims in re.findall(r"tensor<((?:\d+x)+[a-z]\w+)>", program)
    }
    keys = {padded, SIZES["head_dim"]}
    assert any(keys <= set(shape) for shape in shapes), "the keys of the sources are there"
    assert not [shape for shape in shapes if keys | {num_beams} <= set(shape)]
