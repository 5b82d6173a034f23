import json
import threading

import numpy as np
import pytest

from jaxllm.data import TrainLoader, ValidationLoader
from jaxllm.data.rows import TokenRows
from jaxllm.data.streams import PreparedStream, read

LENGTH = 24


class Counting:
    """A stream whose ids say where they stand: `read_rows` never has to be guessed."""

    raw_bytes = 1234
    delimiter_id = 1_000_000
    vocab_size = 1_000_001

    def __init__(self, num_tokens, first=0):
        self.num_tokens = num_tokens
        self.fingerprint = f"counting:{num_tokens}:{first}"
        self._first = first

    def read_rows(self, starts, length):
        rows = np.asarray(starts, np.int32)[:, None] + np.arange(length, dtype=np.int32)
        assert rows.min(initial=0) >= 0
        assert rows.max(initial=0) < self.num_tokens
        return rows + np.int32(self._first)


def loader(streams=None, **options):
    streams = streams or {"a": (Counting(LENGTH * 40 + 5), 1.0)}
    defaults = {"sequence_length": LENGTH, "global_batch_size": 8, "seed": 3}
    options = {**defaults, **options}
    length = options["sequence_length"]
    sources = {
        name: (TokenRows(stream, length, name=name), weight)
        for name, (stream, weight) in streams.items()
    }
    return TrainLoader(sources, **options)


MIXED = {"a": (Counting(LENGTH * 40 + 5), 3.0), "b": (Counting(LENGTH * 7 + 1, 5000), 1.0)}
SWAPPED = dict(reversed(MIXED.items()))


def host_rows(host, hosts):
    """The contiguous rows of a global batch of 8 that a host reads."""
    return range(8 * host // hosts, 8 * (host + 1) // hosts)


def rows_of(batch):
    """The starts of a batch's rows in `Counting` streams."""
    return batch["tokens"][:, 0]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_global_batches_are_the_same_for_any_number_of_hosts(hosts):
    whole = loader(MIXED)
    parts = [loader(MIXED, rows=host_rows(host, hosts)) for host in range(hosts)]
    for step in (0, 3, 10**9):
        batches = [part.batch(step) for part in parts]
        joined = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        assert_equal(joined, whole.batch(step))
        states = {json.dumps(part.state(step)) for part in parts}
        assert states == {json.dumps(whole.state(step))}


def test_resumed_at_any_step_is_uninterrupted():
    first = loader(MIXED)
    whole = [batch for batch, _ in zip(first.iterate(), range(12), strict=False)]
    for step in range(12):
        state = json.loads(json.dumps(first.state(step)))
        resumed = loader(MIXED, prefetch=3)
        resumed.check_state(state)
        batches = resumed.iterate(state["next_row"] // 8)
        for expected in whole[step:]:
            assert_equal(next(batches), expected)
        batches.close()
    assert_equal(whole[5], first.batch(5))


def test_every_epoch_has_every_row_once_in_another_order():
    source = loader(global_batch_size=10)
    epochs = [
        np.concatenate([rows_of(source.batch(step)) for step in range(4 * e, 4 * e + 4)])
        for e in range(3)
    ]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40) * LENGTH)
    orders = {tuple(epoch) for epoch in [*epochs, np.arange(40) * LENGTH]}
    assert len(orders) == 4
    plain = loader(global_batch_size=10, shuffle=False)
    np.testing.assert_array_equal(rows_of(plain.batch(5)), (np.arange(10) + 10) * LENGTH)
    other = rows_of(loader(seed=4).batch(0))
    assert tuple(other) != tuple(rows_of(loader().batch(0)))


def test_mixing_follows_the_weights_exactly_and_repeats_the_small_dataset():
    source = loader(MIXED)
    rows = np.concatenate([rows_of(source.batch(step)) for step in range(50)])
    from_b = rows[rows >= 5000]
    assert len(from_b) == 100  # a quarter of 400 rows
    counts = np.unique(from_b, return_counts=True)[1]
    assert len(counts) == 7
    assert counts.max() - counts.min() <= 1
    # Each batch of 8 holds its share, 2 rows, within one.
    per_batch = [(rows_of(source.batch(step)) >= 5000).sum() for step in range(50)]
    assert set(per_batch) <= {1, 2, 3}


def test_rows_overlap_by_one_token_and_carry_their_number():
    batch = loader().batch(10**9)
    np.testing.assert_array_equal(batch["targets"], batch["tokens"] + 1)
    assert (rows_of(batch) % LENGTH == 0).all()
    expected = (8 * 10**9 + np.arange(8)) % 2**32
    np.testing.assert_array_equal(batch["example_index"], expected)
    assert (batch["loss_mask"] == 1).all()


def test_a_state_of_other_data_is_refused_with_the_difference():
    state = loader(MIXED).state(6)
    changed = {
        "a": (Counting(LENGTH * 41), 3.0),
        "b": (MIXED["b"][0], 2.0),
    }
    cases = [
        (loader(MIXED, seed=4), r"\n  seed: 3 in the checkpoint, 4 now"),
        (loader(MIXED, sequence_length=12), r"data\.sequence_length: 24 .* 12 now"),
        (loader(MIXED, shuffle=False), r"data\.shuffle: True .* False"),
        (loader(changed), r"(?s)data\.datasets\.a\.fingerprint.*data\.datasets\.b\.weight"),
        (loader(), r"data\.datasets\.b"),
        (loader(MIXED, global_batch_size=7), r"data\.global_batch_size"),
        (loader(SWAPPED), r"\n  data\.datasets: in the order a, b in the checkpoint, b, a now\n"),
    ]
    for other, message in cases:
        with pytest.raises(ValueError, match=message):
            other.check_state(state)
    loader(MIXED, global_batch_size=16).check_state(state)  # 3 batches of it


def test_a_mixture_is_drawn_in_the_order_of_its_names_and_json_keeps_it():
    state = json.loads(json.dumps(loader(MIXED).state(6)))
    loader(MIXED).check_state(state)
    swapped = loader(SWAPPED)
    assert any(swapped.rows_of(step) != loader(MIXED).rows_of(step) for step in range(4))
    with pytest.raises(ValueError, match="in the order a, b in the checkpoint, b, a now"):
        swapped.check_state(state)


def test_a_dataset_shorter_than_a_row_is_named():
    with pytest.raises(ValueError, match=r"'tiny' has 24 tokens.*data\.sequence_length"):
        loader({"tiny": (Counting(LENGTH), 1.0)})


def test_an_unreadable_batch_raises_in_the_loop_and_threads_end():
    class Broken(Counting):
        def read_rows(self, starts, length):
            raise ValueError("shard 7")

    batches = loader({"a": (Broken(1000), 1.0)}).iterate()
    with pytest.raises(ValueError, match="shard 7"):
        next(batches)
    batches = loader().iterate(5)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("tokens", [2, LENGTH + 1, LENGTH * 13 + 2, LENGTH * 16 + 1])
def test_validation_scores_every_token_exactly_once(tokens, hosts):
    parts = [
        ValidationLoader(
            Counting(tokens),
            name="a",
            sequence_length=LENGTH,
            global_batch_size=8,
            rows=host_rows(host, hosts),
        )
        for host in range(hosts)
    ]
    scored = []
    for batches in zip(*parts, strict=True):  # strict: every host has as many batches
        for batch in batches:
            assert batch["tokens"].shape == (8 // hosts, LENGTH)
            mask = batch["loss_mask"] == 1
            np.testing.assert_array_equal(batch["targets"][mask], batch["tokens"][mask] + 1)
            scored.extend(batch["targets"][mask])
    assert sorted(scored) == list(range(1, tokens))
    assert parts[0].num_targets == tokens - 1
    assert parts[0].raw_bytes == 1234


def test_batches_of_a_prepared_dataset_are_its_tokens(dataset):
    stream = PreparedStream(dataset, "train")
    tokens = read(stream, 0, stream.num_tokens)
    plain = loader({"texts": (stream, 1.0)}, shuffle=False)
    batch = plain.batch(2)
    np.testing.assert_array_equal(batch["tokens"].ravel(), tokens[16 * LENGTH : 24 * LENGTH])
    wider = loader({"texts": (stream, 1.0)}, sequence_length=5000, global_batch_size=2)
    row = wider.batch(0)["tokens"][0]
    assert any((row == tokens[s : s + 5000]).all() for s in range(0, len(tokens) - 5000, 5000))


SKIPPED = (3, 4, 9, 5)


def test_skipped_batches_are_read_by_no_step_and_all_others_in_order():
    plain, gaps = loader(MIXED), loader(MIXED, skipped=SKIPPED)
    numbers = [gaps.batch_number(step) for step in range(12)]
    assert numbers == [0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 14, 15]
    for step, number in enumerate(numbers):
        assert_equal(gaps.batch(step), plain.batch(number))  # example_index, too, is its own
        assert gaps.rows_of(step) == plain.rows_of(number)
    assert gaps.batch_number(10**9) == 10**9 + 4
    parts = [loader(MIXED, rows=host_rows(host, 4), skipped=SKIPPED) for host in range(4)]
    joined = np.concatenate([rows_of(part.batch(5)) for part in parts])
    np.testing.assert_array_equal(joined, rows_of(gaps.batch(5)))
    batches = gaps.iterate(2)
    for number in (2, 6, 7):
        assert_equal(next(batches), plain.batch(number))
    batches.close()


def test_rows_are_named_by_dataset_and_place():
    source = loader(MIXED)
    named = source.rows_of(6)
    first = {"a": 0, "b": 5000}
    starts = [first[name] + row * LENGTH for name, row in named]
    np.testing.assert_array_equal(starts, rows_of(source.batch(6)))
    assert {name for name, _ in named} == {"a", "b"}
    assert loader(MIXED, rows=[2]).rows_of(6) == named
    json.dumps(named)


def test_a_position_from_before_a_rollback_goes_on_after_it():
    plain, gaps = loader(MIXED), loader(MIXED, skipped=SKIPPED)
    for step in range(4):  # no skipped batch was passed yet
        assert plain.state(step) == gaps.state(step)
        gaps.check_state(plain.state(step))
    after = json.loads(json.dumps(gaps.state(4)))
    assert (after["next_row"], after["skipped"]) == (8 * 7, [3, 4, 5])
    gaps.check_state(after)
    with pytest.raises(ValueError, match=r"skipped batches: \[3, 4, 5\] in the checkpoint, \[\]"):
        plain.check_state(after)
    with pytest.raises(ValueError, match=r"skipped batches: \[\] in the checkpoint, \[3, 4, 5\]"):
        gaps.check_state(plain.state(7))
