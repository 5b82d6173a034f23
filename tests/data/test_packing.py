import numpy as np
import pytest

from jaxllm.data.packing import pack


def naive(sizes, length):
    """Best-fit decreasing as it is told, with a look at every row."""
    rows, room = [], []
    for example in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fitting = [row for row in range(len(rows)) if room[row] >= sizes[example]]
        if not fitting:
            fitting = [len(rows)]
            rows.append([])
            room.append(length)
        best = min(fitting, key=lambda row: room[row])
        rows[best].append(example)
        room[best] -= sizes[example]
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_each_example_is_in_one_row_that_holds_it(seed):
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 200))
    sizes = rng.integers(1, length + 1, rng.integers(1, 300))
    packing = pack(sizes, length)
    rows = [packing.examples(row) for row in range(packing.num_rows)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(sizes)))
    assert all(len(row) and sizes[row].sum() <= length for row in rows)
    for row in rows:
        assert (np.diff(sizes[row]) <= 0).all()
    # Which of the rows with equal room is taken may differ, but not what is in use of them.
    expected = [int(sizes[row].sum()) for row in naive(sizes.tolist(), length)]
    assert sorted(int(sizes[row].sum()) for row in rows) == sorted(expected)
    again = pack(sizes.copy(), length)
    assert np.array_equal(again.order_N, packing.order_N)
    assert np.array_equal(again.stops_R, packing.stops_R)


def test_the_row_with_the_least_room_is_taken():
    packing = pack(np.asarray([3, 6, 7, 2]), 10)
    assert [packing.examples(row).tolist() for row in range(2)] == [[2, 0], [1, 3]]


def test_nothing_is_packed_into_no_rows():
    assert pack(np.zeros(0, np.int64), 8).num_rows == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_skewed_distribution_wastes_under_three_percent(seed):
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(5.5, 1.0, 5_000).astype(int), 8, 2048)
    packing = pack(sizes, 2048)
    assert 1 - sizes.sum() / (packing.num_rows * 2048) < 0.03
