"""B rows, T length, V vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from pydantic import ValidationError

from jaxllm.objectives import MaskedLm, Vocabulary

V, MASK, UNKNOWN = tiny.VOCAB, tiny.VOCAB, 3
ROWS, LENGTH = 64, 128
# Of each id, whether it goes on with a word: two of three.
PARTS = np.arange(V) % 3 != 0
VOCABULARY = Vocabulary(V, special_ids=(tiny.DELIMITER, UNKNOWN), continues_word_V=PARTS)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(rows=ROWS, length=LENGTH, scored=[LENGTH] * (ROWS - 1) + [40])


def hide(batch, objective=None, vocabulary=VOCABULARY, *, seed=5):
    return (objective or MaskedLm()).arrangement(vocabulary, seed=seed)(batch)


def test_only_what_is_hidden_is_scored_and_only_there_the_row_changes(batch):
    found = hide(batch)
    is_hidden = found["loss_mask"] > 0
    np.testing.assert_array_equal(found["targets"], batch["tokens"])
    np.testing.assert_array_equal(found["tokens"][~is_hidden], batch["tokens"][~is_hidden])
    assert not np.isin(batch["tokens"][is_hidden], VOCABULARY.special_ids).any()
    assert not is_hidden[-1, 40:].any(), "filling is no text"
    for name in ("segment_ids", "positions", "example_index"):
        np.testing.assert_array_equal(found[name], batch[name])


def test_shares_are_as_given(batch):
    """Of 8,000 tokens; four standard deviations of a share of so many."""
    found = hide(batch, MaskedLm(rate=0.5, random_rate=0.25, kept_rate=0.25))
    is_text = ~np.isin(batch["tokens"], VOCABULARY.special_ids)
    is_text[-1, 40:] = False
    is_hidden = found["loss_mask"] > 0
    assert is_hidden.sum() / is_text.sum() == pytest.approx(0.5, abs=4 * 0.5 / 8000**0.5)
    seen, true = found["tokens"][is_hidden], batch["tokens"][is_hidden]
    error = 4 * 0.5 / len(seen) ** 0.5
    assert np.mean(seen == MASK) == pytest.approx(0.5, abs=error)
    # One in V of the random ones is the token itself.
    assert np.mean(seen == true) == pytest.approx(0.25 + 0.25 / V, abs=error)
    assert len(set(seen[(seen != MASK) & (seen != true)])) > V / 2


def test_the_mask_of_the_tokenizer_is_used_and_else_one_more_id(batch):
    own = VOCABULARY._replace(mask_id=9)
    assert (MaskedLm().num_ids(VOCABULARY), MaskedLm().num_ids(own)) == (V + 1, V)
    only_masks = MaskedLm(random_rate=0, kept_rate=0)
    for vocabulary, mask in ((VOCABULARY, MASK), (own, 9)):
        found = hide(batch, only_masks, vocabulary)
        assert set(found["tokens"][found["loss_mask"] > 0]) == {mask}


@pytest.mark.parametrize("whole_words", [False, True])
def test_a_row_is_hidden_alike_whatever_is_read_beside_it(batch, whole_words):
    objective = MaskedLm(whole_words=whole_words)
    whole = hide(batch, objective)
    for rows in (slice(0, 1), slice(17, 40)):
        part = hide({name: field[rows] for name, field in batch.items()}, objective)
        for name, field in part.items():
            np.testing.assert_array_equal(field, whole[name][rows], err_msg=name)


def test_another_epoch_and_another_seed_hide_other_tokens(batch):
    first = hide(batch)["loss_mask"]
    later = {**batch, "example_index": batch["example_index"] + ROWS}
    for other in (hide(later), hide(batch, seed=6)):
        assert 0.1 < np.mean(first != other["loss_mask"]) < 0.5


def test_whole_words_are_hidden_together(batch):
    found = hide(batch, MaskedLm(whole_words=True, rate=0.3))
    tokens, is_hidden = batch["tokens"], found["loss_mask"] > 0
    special = np.isin(tokens, VOCABULARY.special_ids)
    goes_on = PARTS[tokens] & ~special
    goes_on[:, 1:] &= ~special[:, :-1]
    goes_on[-1, 40:] = False  # filling
    row, column = np.nonzero(goes_on[:, 1:])
    np.testing.assert_array_equal(is_hidden[row, column + 1], is_hidden[row, column])
    assert 0.25 < np.mean(is_hidden[~special]) < 0.35


def test_the_sum_is_over_what_is_scored(batch):
    found = hide(batch)
    logits = np.random.default_rng(1).normal(size=(ROWS, LENGTH, V + 1)).astype(np.float32)
    called = {}

    def model(tokens, **options):
        called.update(options, tokens=tokens)
        return SimpleNamespace(logits=logits)

    sums = MaskedLm()(model, found, keys_B="keys")
    wide = logits.astype(np.float64)
    picked = np.take_along_axis(wide, found["targets"][..., None], -1)[..., 0]
    nll = np.log(np.exp(wide).sum(-1)) - picked
    # float32 rounding of the sum of a thousand terms
    np.testing.assert_allclose(sums.nll, nll[found["loss_mask"] > 0].sum(), rtol=1e-5)
    assert sums.loss == sums.nll
    assert sums.num_tokens == found["loss_mask"].sum()
    assert called["keys_B"] == "keys"
    np.testing.assert_array_equal(called["positions_BT"], batch["positions"])
    np.testing.assert_array_equal(called["segment_ids_BT"], batch["segment_ids"])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValidationError, match=r"random_rate=0\.6 and kept_rate=0\.5 are more"):
        MaskedLm(random_rate=0.6, kept_rate=0.5)
    unknown = VOCABULARY._replace(continues_word_V=None)
    with pytest.raises(ValueError, match=r"objective\.whole_words is true, but the tokenizer"):
        MaskedLm(whole_words=True).arrangement(unknown, seed=0)
