import numpy as np

from jaxllm.data.token_kinds import kinds_of

PIECES = [
    "<pad>",
    "</s>",
    "\u2581the",
    "s",
    "<extra_id_10>",
    "<extra_id_2>",
    "<extra_id_0>",
    "<mask>",
]
SPECIAL = (0, 1, 4, 5, 6)


def test_sentinels_are_in_the_order_of_their_spans():
    kinds = kinds_of(dict(enumerate(PIECES)), size=len(PIECES), special_ids=SPECIAL)
    assert kinds.sentinel_ids == (6, 5, 4)
    assert kinds.special_ids == SPECIAL
    assert kinds.mask_id is None, "what is text stands for nothing"
    np.testing.assert_array_equal(np.flatnonzero(kinds.continues_word_V), [3, 7])


def test_text_that_looks_like_a_sentinel_is_text():
    kinds = kinds_of(dict(enumerate(PIECES)), size=len(PIECES), special_ids=(0, 1, 7))
    assert kinds.sentinel_ids == ()
    assert kinds.mask_id == 7
