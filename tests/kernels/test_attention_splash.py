"""The TPU's kernel, interpreted on CPU."""

from functools import partial

import numpy as np
import pytest

from jaxllm.kernels import attention_splash
from jaxllm.kernels.attention_request import AttentionRequest
from jaxllm.kernels.attention_splash import (
    Blocks,
    Mask,
    _kernel,
    attend,
    divisor,
    visits,
    why_not,
)
from jaxllm.parallel.zigzag import zigzag_order

from .attention_reference import causal_mask, check, random_case, reference, with_gradients

LENGTH = 256


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks a row, so that some are skipped, some masked and some whole."""
    monkeypatch.setattr(attention_splash, "OTHER_CHIPS", Blocks(128, 128, 128))


@pytest.mark.parametrize(
    ("options", "is_fused"),
    [
        ({"window": None, "soft_cap": None}, True),
        ({"window": 100, "soft_cap": 2.0}, True),
        ({"window": 100, "soft_cap": 2.0}, False),
    ],
)
def test_equals_float64(options, is_fused, monkeypatch):
    if not is_fused:
        monkeypatch.setattr(attention_splash, "MAX_QUERY_GRADIENTS", 0)
    arrays, segments = random_case(LENGTH, num_heads=2, num_kv_heads=1, rows=2)
    call = partial(
        attend,
        query_segments_BT=segments,
        key_segments_BS=segments,
        shard=None,
        chip=None,
        interpret=True,
        **options,
    )
    mask = causal_mask(LENGTH, segments_BT=segments, window=options["window"])
    expected = reference(*arrays, mask_BTS=mask, soft_cap=options["soft_cap"])
    check(with_gradients(call, *arrays), expected)


@pytest.mark.parametrize("window", [None, 1, 130, 255, 256])
@pytest.mark.parametrize("num_shards", [1, 4])
def test_every_block_of_a_mask(window, num_shards):
    """Those that are told without a comparison too."""
    built = Mask(1024, 1024, window=window, num_shards=num_shards).build()
    expected = causal_mask(1024, window=window)[0]
    if num_shards > 1:
        expected = expected[zigzag_order(1024, num_shards)]
    for row, column in np.ndindex(8, 8):
        block = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
        np.testing.assert_array_equal(built[block], expected[block])


@pytest.mark.parametrize(
    ("mask", "shares"),
    [
        # Blocks of 1,024: of 4 x 4 those on and below the diagonal.
        (Mask(4096, 4096), "625_1000_625"),
        # Backward in key blocks of 2,048, of which 20 of 8 x 4 have something to see.
        (Mask(8192, 8192), "562_1000_625"),
        (Mask(8192, 8192, is_causal=False), "1000_1000_1000"),
        # 30 of 8 x 8, and 18 of 8 x 4.
        (Mask(8192, 8192, window=4096), "469_1000_562"),
        # Too long to be fused: as many blocks in all three.
        (Mask(32768, 32768, num_shards=4), "516_516_516"),
    ],
)
def test_a_kernel_says_which_part_of_all_pairs_it_visits(mask, shares):
    kernel = _kernel(mask, head_dim=128, soft_cap=None, chip="v5e", interpret=False)
    assert visits(kernel, mask.num_queries, mask.num_keys) == f"visits_{shares}"


def test_blocks_divide_the_length():
    assert divisor(4096, 1024) == 1024
    assert divisor(1152, 1024) == 384
    assert divisor(128, 1024) == 128
    with pytest.raises(AssertionError):
        divisor(200, 1024)


def request_for(**changes):
    fields = {
        "platform": "tpu",
        "dtype": "bfloat16",
        "num_queries": 1024,
        "head_dim": 128,
        "num_heads": 4,
        "num_kv_heads": 2,
        "has_segments": True,
        "has_cache": False,
        "window": 100,
        "soft_cap": 30.0,
        "context_attention": None,
        "num_shards": 1,
    }
    return AttentionRequest(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"platform": "cpu"}, "platform cpu"),
        ({"has_cache": True}, "cache"),
        ({"num_queries": 1000}, "stretches of 1000 positions"),
        ({"context_attention": "ulysses", "num_shards": 8}, None),
        ({"context_attention": "all_gather", "num_shards": 4}, None),
        ({"context_attention": "all_gather", "num_shards": 8}, "stretches of 64 positions"),
        ({"context_attention": "ring", "num_shards": 8}, "stretches of 64 positions"),
    ],
)
def test_what_it_cannot_do(changes, reason):
    given = why_not(request_for(**changes))
    assert given is None if reason is None else reason in given


@pytest.mark.parametrize(
    ("length", "backward_key", "is_fused"),
    [(2048, 1024, True), (4096, 1024, True), (8192, 2048, True), (16384, 1024, False)],
)
def test_the_backward_kernel_is_fused_while_it_holds_few_gradients(length, backward_key, is_fused):
    options = {"soft_cap": None, "interpret": True}
    kernel = attention_splash._kernel(Mask(length, length), head_dim=128, chip="v5e", **options)
    sizes = kernel.kwargs["block_sizes"]
    assert (sizes.block_kv_dkv, sizes.use_fused_bwd_kernel) == (backward_key, is_fused)
