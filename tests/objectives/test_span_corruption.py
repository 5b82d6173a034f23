"""B rows, L length of a row, T target length, V vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from jaxllm.objectives import SpanCorruption, Vocabulary
from jaxllm.objectives.span_corruption import hidden_tokens

V, END = tiny.VOCAB, tiny.DELIMITER
ROWS, LENGTH = 32, 60
SENTINELS = 5
OBJECTIVE = SpanCorruption(rate=0.25, mean_span=3.0, num_sentinels=SENTINELS)
HIDDEN, SPANS = 15, 5
VOCABULARY = Vocabulary(V, special_ids=(END,), delimiter_id=END)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(rows=ROWS, length=LENGTH, scored=[LENGTH] * (ROWS - 2) + [40, 0])


def corrupt(batch, objective=OBJECTIVE, vocabulary=VOCABULARY, *, seed=5):
    return objective.arrangement(vocabulary, seed=seed)(batch)


def put_together(source, target, sentinels):
    """The row of a source and its target: each sentinel is replaced by what the target says."""
    said, current = {}, None
    for token in target[:-1]:
        if token in sentinels:
            current = said.setdefault(token, [])
        else:
            current.append(token)
    parts = [said.get(token, [token]) for token in source[:-1]]
    return [token for part in parts for token in part]


def test_source_and_target_are_the_row(batch):
    found = corrupt(batch)
    # As T5's, sentinels count down from the last id, in the order of the spans.
    sentinels = [V + SENTINELS - 1 - span for span in range(SPANS)]
    for row in range(ROWS):
        source, target = (found[name][row].tolist() for name in ("encoder_tokens", "targets"))
        assert put_together(source, target, sentinels) == batch["tokens"][row].tolist()
        assert source[-1] == target[-1] == END
        for text in (source, target):
            assert [token for token in text if token >= V] == sentinels
        assert target[0] == sentinels[0]


def test_shapes_follow_from_the_length_alone(batch):
    assert SpanCorruption().lengths(568) == (512, 114)  # T5's, of 512 tokens a source
    assert OBJECTIVE.spans(LENGTH) == (HIDDEN, SPANS)
    found = corrupt(batch)
    assert found["encoder_tokens"].shape == (ROWS, LENGTH - HIDDEN + SPANS + 1)
    assert found["targets"].shape == (ROWS, HIDDEN + SPANS + 1)
    said = OBJECTIVE.arranged({"tokens": batch["tokens"]})
    assert said.keys() == found.keys()
    for name, field in found.items():
        assert (said[name].shape, said[name].dtype) == (field.shape, field.dtype), name


@pytest.mark.parametrize(
    ("length", "rate", "mean_span"), [(2, 0.15, 3.0), (3, 0.9, 1.0), (7, 0.5, 1.0), (31, 0.99, 1)]
)
def test_rows_of_any_length_have_spans_apart(length, rate, mean_span):
    objective = SpanCorruption(rate=rate, mean_span=mean_span)
    hidden, spans = objective.spans(length)
    row = hidden_tokens(np.random.default_rng(0), length, hidden=hidden, spans=spans)
    assert (len(row), row.sum()) == (length, hidden)
    assert np.sum(np.diff(row, prepend=False) & row) == spans
    assert sum(objective.lengths(length)) == length + 2 * spans + 2


def test_any_spans_are_equally_likely():
    """Two spans of four hidden tokens among six seen ones: five times three arrangements."""
    draws = 3000
    generator = np.random.default_rng(1)
    found = [hidden_tokens(generator, 10, hidden=4, spans=2).tobytes() for _ in range(draws)]
    _, counts = np.unique(found, return_counts=True)
    assert len(counts) == 15
    # Four standard deviations of a share of 1/15, of so many draws.
    np.testing.assert_allclose(counts / draws, 1 / 15, atol=4 * (14 / 225 / draws) ** 0.5)


def test_a_row_is_corrupted_alike_whatever_is_read_beside_it(batch):
    whole = corrupt(batch)
    for rows in (slice(0, 1), slice(17, 30)):
        part = corrupt({name: field[rows] for name, field in batch.items()})
        for name, field in part.items():
            np.testing.assert_array_equal(field, whole[name][rows], err_msg=name)


def test_another_epoch_and_another_seed_hide_other_spans(batch):
    first = corrupt(batch)["targets"]
    later = {**batch, "example_index": batch["example_index"] + ROWS}
    for other in (corrupt(later), corrupt(batch, seed=6)):
        assert np.mean(np.any(first != other["targets"], axis=1)) > 0.9


def test_filling_is_neither_read_nor_scored(batch):
    found = corrupt(batch)
    assert found["encoder_mask"][:-2].all()
    assert found["loss_mask"][:-2].all()
    assert not found["encoder_mask"][-1].any()
    assert not found["loss_mask"][-1].any()
    # Each of the 40 tokens is in one of both, with the sentinel of each span that began in them.
    read, scored = found["encoder_mask"][-2] > 0, found["loss_mask"][-2] > 0
    source, target = found["encoder_tokens"][-2][read], found["targets"][-2][scored]
    assert np.sum(source < V) + np.sum(target < V) == 40
    np.testing.assert_array_equal(source[source >= V], target[target >= V])
    assert np.all(np.diff(read.astype(int)) <= 0), "the beginning"
    assert np.all(np.diff(scored.astype(int)) <= 0), "the beginning"


def test_sentinels_of_the_tokenizer_are_used_and_else_ids_behind_it(batch):
    own = VOCABULARY._replace(sentinel_ids=(9, 3, 7, 5, 4, 8))
    assert (OBJECTIVE.num_ids(VOCABULARY), OBJECTIVE.num_ids(own)) == (V + SENTINELS, V)
    found = corrupt(batch, vocabulary=own)
    assert set(found["targets"][:, 0]) == {9}
    with pytest.raises(ValueError, match=r"num_sentinels=5, but the tokenizer has 2 sentinels"):
        corrupt(batch, vocabulary=VOCABULARY._replace(sentinel_ids=(9, 3)))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"has 100 hidden spans; raise num_sentinels or"):
        SpanCorruption(num_sentinels=99).spans(2000)
    with pytest.raises(ValueError, match=r"data\.sequence_length=1: of one token"):
        SpanCorruption().spans(1)


def test_the_sum_is_over_what_is_scored(batch):
    found = corrupt(batch)
    shape = (*found["targets"].shape, V + SENTINELS)
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    called = {}

    def model(source, target, **options):
        called.update(options, source=source, target=np.asarray(target))
        return logits

    model.config = SimpleNamespace(start_id=7)
    sums = OBJECTIVE(model, found, keys_B="keys")
    wide = logits.astype(np.float64)
    picked = np.take_along_axis(wide, found["targets"][..., None], -1)[..., 0]
    nll = np.log(np.exp(wide).sum(-1)) - picked
    # float32 rounding of the sum of hundreds of terms
    np.testing.assert_allclose(sums.nll, nll[found["loss_mask"] > 0].sum(), rtol=1e-5)
    assert sums.loss == sums.nll
    assert sums.num_tokens == found["loss_mask"].sum()
    assert called["keys_B"] == "keys"
    np.testing.assert_array_equal(called["encoder_mask_BS"], found["encoder_mask"])
    np.testing.assert_array_equal(called["source"], found["encoder_tokens"])
    assert set(called["target"][:, 0]) == {7}
    np.testing.assert_array_equal(called["target"][:, 1:], found["targets"][:, :-1])
