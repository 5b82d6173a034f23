import numpy as np
import pytest

from jaxllm.parallel.zigzag import natural_order, zigzag_order


def test_known_order():
    expected = [0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7]
    np.testing.assert_array_equal(zigzag_order(12, 3), expected)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 8])
def test_an_equal_share_of_causal_work_and_a_way_back(num_shards):
    length = 16 * num_shards
    order = zigzag_order(length, num_shards)
    scores = (order + 1).reshape(num_shards, -1).sum(axis=1)  # position t sees t + 1 keys
    assert len(set(scores)) == 1
    np.testing.assert_array_equal(order[natural_order(length, num_shards)], np.arange(length))


def test_a_length_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"data\.sequence_length: 20 .*parallel\.context=4"):
        zigzag_order(20, 4)
