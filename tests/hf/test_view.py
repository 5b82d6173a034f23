import itertools

import numpy as np
import pytest

from jaxllm.hf.view import view

D, N, H, C = 4, 3, 6, 2

# Notation, shape of ours, shape of theirs, and ours as an index into theirs.
CASES = {
    "V D -> V D": ((5, D), (5, D), lambda t: t),
    "F D -> D F": ((D, 5), (5, D), lambda t: t.T),
    "(N H) D -> D N H": ((D, N, H), (N * H, D), lambda t: t.reshape(N, H, D).transpose(2, 0, 1)),
    "D (N H) -> N H D": ((N, H, D), (D, N * H), lambda t: t.reshape(D, N, H).transpose(1, 2, 0)),
    "D (@1/3 N H) -> D N H": ((D, N, H), (D, 54), lambda t: t.reshape(D, 3, N, H)[:, 1]),
    "(N @2/3 H) -> N H": ((N, H), (54,), lambda t: t.reshape(N, 3, H)[:, 2]),
    "(N@4/7 H) D -> D N H": (
        (D, N, H),
        (42, D),
        lambda t: t[24:].reshape(N, H, D).transpose(2, 0, 1),
    ),
    "H@2/9 D -> D H": ((D, H), (9, D), lambda t: t[2:8].T),
    "(N (p c2)@3/9) D -> D N (c2 p)": (
        (D, N, H),
        (27, D),
        lambda t: (
            t.reshape(N, 9, D)[:, 3:].reshape(N, 3, C, D).transpose(3, 0, 2, 1).reshape(D, N, H)
        ),
    ),
}


@pytest.mark.parametrize("notation", CASES)
def test_ours_is_seen_in_theirs_and_written_back(notation):
    ours_shape, theirs_shape, expected = CASES[notation]
    seen = view(notation)
    assert seen.shape(ours_shape) == theirs_shape
    theirs = 1 + np.arange(np.prod(theirs_shape), dtype=np.int64).reshape(theirs_shape)
    ours = seen.take(theirs, ours_shape)
    np.testing.assert_array_equal(ours, expected(theirs))
    written = np.zeros_like(theirs)
    seen.put(written, ours)
    np.testing.assert_array_equal(written, np.where(np.isin(theirs, ours), theirs, 0))


@pytest.mark.parametrize("notation", CASES)
def test_a_part_is_read_from_the_box_around_it(notation):
    ours_shape, theirs_shape, expected = CASES[notation]
    theirs = np.arange(np.prod(theirs_shape)).reshape(theirs_shape)
    ours = expected(theirs)
    pieces = (
        [slice(first, last) for first in range(size) for last in range(first, size + 1)]
        for size in ours_shape
    )
    for index in itertools.islice(itertools.product(*pieces), 0, None, 7):
        found = view(notation).part(lambda box: theirs[(..., *box)], ours_shape, index)
        np.testing.assert_array_equal(found, ours[index])


@pytest.mark.parametrize(
    ("notation", "ours_shape", "index", "expected"),
    [
        ("F D -> D F", (4, 6), (slice(1, 3), slice(2, 5)), (slice(2, 5), slice(1, 3))),
        ("(N H) D -> D N H", (4, 3, 6), (slice(1, 3), slice(1, 2), slice(None)), (6, 12, 1, 3)),
        ("(N H) D -> D N H", (4, 3, 6), (slice(None), slice(2, 3), slice(1, 3)), (13, 15, 0, 4)),
        ("(N@4/7 H) D -> D N H", (4, 3, 6), (slice(2), slice(1, 3), slice(None)), (30, 42, 0, 2)),
        ("D (@1/3 N H) -> D N H", (4, 3, 6), (slice(4), slice(0, 2), slice(6)), (0, 4, 18, 30)),
        ("H@2/9 D -> D H", (4, 6), (slice(4), slice(1, 4)), (3, 6, 0, 4)),
    ],
)
def test_the_box_is_as_small_as_rows_and_columns_go(notation, ours_shape, index, expected):
    asked = []

    def read(box):
        asked.append(tuple(box))
        return np.zeros([piece.stop - piece.start for piece in box])

    view(notation).part(read, ours_shape, index)
    if isinstance(expected[0], int):
        expected = tuple(slice(*expected[at : at + 2]) for at in (0, 2))
    assert asked == [expected]


def test_nothing_is_copied_to_look():
    theirs = np.zeros((N * H, D))
    assert np.shares_memory(view("(N H) D -> D N H").take(theirs, (D, N, H)), theirs)


def test_both_sides_have_the_same_dimensions():
    with pytest.raises(AssertionError, match="on the right"):
        view("(N H) D -> D N")
