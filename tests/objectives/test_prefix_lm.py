"""B rows, T length, V vocabulary."""

import jax
import numpy as np
import pytest
import tiny

from jaxllm.objectives import CausalLm, PrefixLm, Vocabulary
from jaxllm.objectives.prefix_lm import divided
from jaxllm.objectives.teacher_forcing import decoder_tokens

ROWS, LENGTH = 48, tiny.LENGTH
VOCABULARY = Vocabulary(tiny.VOCAB, special_ids=(tiny.DELIMITER,), delimiter_id=tiny.DELIMITER)
OBJECTIVE = PrefixLm()


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(rows=ROWS, scored=[LENGTH] * (ROWS - 1) + [9])


def cut(batch, *, seed=5):
    return OBJECTIVE.arrangement(VOCABULARY, seed=seed)(batch)


def test_prefixes_are_of_all_lengths_and_what_is_behind_them_is_scored(batch):
    found = cut(batch)
    lengths = found["prefix_mask"].sum(axis=1).astype(int)
    assert set(lengths) <= set(range(1, LENGTH + 1))
    assert len(set(lengths)) > LENGTH / 2
    places = np.arange(LENGTH)
    np.testing.assert_array_equal(found["prefix_mask"], places < lengths[:, None])
    # The prefix's last token tells the first token behind it.
    is_behind = places + 1 >= lengths[:, None]
    np.testing.assert_array_equal(found["loss_mask"], batch["loss_mask"] * is_behind)
    assert found["loss_mask"][:-1].any(axis=1).all()
    for name in ("tokens", "targets", "segment_ids", "positions", "example_index"):
        np.testing.assert_array_equal(found[name], batch[name])
    said = OBJECTIVE.arranged(dict(batch))
    assert {name: field.shape for name, field in said.items()} == {
        name: field.shape for name, field in found.items()
    }


def test_a_row_that_is_filled_up_is_cut_where_it_is_text(batch):
    mask_BT = batch["loss_mask"] * (np.arange(batch["loss_mask"].shape[1]) < 3)
    for seed in range(5):
        assert (cut({**batch, "loss_mask": mask_BT}, seed=seed)["loss_mask"].sum(axis=1) > 0).all()


def test_a_row_is_cut_alike_whatever_is_read_beside_it(batch):
    whole = cut(batch)
    part = cut({name: field[7:20] for name, field in batch.items()})
    for name, field in part.items():
        np.testing.assert_array_equal(field, whole[name][7:20], err_msg=name)
    assert np.any(cut(batch, seed=6)["prefix_mask"] != whole["prefix_mask"])


def test_source_and_target_are_the_row(batch):
    """Of the targets that are scored, nothing is lost, and nothing of them is in the source."""
    found = cut(batch)
    parts = {name: np.asarray(field) for name, field in divided(found).items()}
    for row in range(ROWS):
        source = parts["encoder_tokens"][row][parts["encoder_mask"][row] > 0]
        target = parts["targets"][row][parts["loss_mask"][row] > 0]
        count = len(source)
        whole = np.append(batch["tokens"][row], batch["targets"][row, -1])
        scored = max(int(batch["loss_mask"][row].sum()) + 1 - count, 0)
        np.testing.assert_array_equal(source, whole[:count])
        np.testing.assert_array_equal(target, whole[count : count + scored])
        assert len(target) == found["loss_mask"][row].sum()
        assert parts["loss_mask"][row, : len(target)].all()


@pytest.fixture(scope="module")
def decoder():
    model = tiny.decoder(tiny.config(num_layers=2))
    return model, tiny.fast(lambda batch: OBJECTIVE(model, batch))


def test_of_one_token_a_prefix_is_causal(decoder, batch):
    model, run = decoder
    one = {**batch, "prefix_mask": np.zeros((ROWS, LENGTH), np.float32)}
    one["prefix_mask"][:, 0] = 1
    nll = tiny.fast(lambda batch: CausalLm()(model, batch))(batch).nll
    # The same sums in another order: float32 rounding.
    np.testing.assert_allclose(run(one).nll, nll, rtol=1e-5)


def test_a_decoder_sees_all_of_a_prefix_and_nothing_else_ahead(decoder, batch):
    """Other tokens in its place change what is told at each place that sees it."""
    model, _ = decoder
    found = {name: field[:8] for name, field in cut(batch).items()}

    def states(tokens_BT):
        x_BTD, _ = model.hidden(
            tokens_BT,
            segment_ids_BT=found["segment_ids"],
            positions_BT=found["positions"],
            prefix_BT=found["prefix_mask"],
        )
        return x_BTD

    places = np.arange(LENGTH)
    # One place after the other has another token.
    changed = (found["tokens"] + (places[:, None, None] == places)) % tiny.VOCAB
    texts = np.concatenate([found["tokens"][None], changed])
    told = np.asarray(tiny.fast(jax.vmap(states))(texts))
    moved = np.any(told[1:] != told[0], axis=-1).transpose(1, 2, 0)  # row, query, key
    same = found["segment_ids"][:, :, None] == found["segment_ids"][:, None, :]
    seen = (places[:, None] >= places) | (found["prefix_mask"][:, None, :] > 0)
    np.testing.assert_array_equal(moved, same & seen)
    assert np.any(moved & (places[:, None] < places))


def test_an_encoder_decoder_is_given_the_prefix_as_its_source(batch):
    found = cut(batch)
    called = {}

    class Model:
        config = tiny.t5(start_id=3)

        def __call__(self, source, target, *, encoder_mask_BS, keys_B, layout):
            called.update(source=source, target=target, mask=encoder_mask_BS)
            return np.zeros((ROWS, LENGTH, tiny.VOCAB), np.float32)

    sums = OBJECTIVE(Model(), found)
    parts = divided(found)
    np.testing.assert_array_equal(called["mask"], found["prefix_mask"])
    np.testing.assert_array_equal(called["target"], decoder_tokens(parts["targets"], start_id=3))
    assert sums.num_tokens == found["loss_mask"].sum()
    # Every logit is 0: each target costs ln V, rounded once a term.
    np.testing.assert_allclose(sums.nll, sums.num_tokens * np.log(tiny.VOCAB), rtol=1e-5)
