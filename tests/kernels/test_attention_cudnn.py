"""What cuDNN is asked for, answered by JAX's plain implementation of the same arguments."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.kernels.attention_cudnn import attend, why_not
from jaxllm.parallel.zigzag import Shard, zigzag_order

from .attention_reference import TOLERANCE, causal_mask, random_case, reference
from .test_attention_splash import request_for

LENGTH = 16


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """jax.nn.dot_product_attention(implementation="cudnn"), without a GPU."""
    public = jax.nn.dot_product_attention

    def answer(*arrays, implementation, **options):
        assert implementation == "cudnn"
        return public(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)


@pytest.mark.parametrize(
    ("window", "has_segments", "shard"),
    [(None, False, None), (3, True, None), (None, False, 1), (3, True, 0)],
)
def test_equals_float64(window, has_segments, shard):
    (q, k, v, g), segments = random_case(LENGTH)
    segments = segments if has_segments else None
    mine = slice(None)
    if shard is not None:
        mine = zigzag_order(LENGTH, 2).reshape(2, -1)[shard]
        shard = Shard(2, jnp.int32(shard))
    out = attend(
        *(q[:, mine], k, v),
        query_segments_BT=None if segments is None else segments[:, mine],
        key_segments_BS=segments,
        shard=shard,
        window=window,
        soft_cap=None,
    )
    mask = causal_mask(LENGTH, segments_BT=segments, window=window)
    expected = reference(q, k, v, g, mask_BTS=mask)[0]
    np.testing.assert_allclose(out, expected[:, mine], rtol=0, atol=TOLERANCE)


on_gpu = partial(request_for, platform="gpu", soft_cap=None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"context_attention": "all_gather", "num_shards": 4}, None),
        ({"platform": "tpu"}, "platform tpu"),
        ({"has_cache": True}, "cache"),
        ({"dtype": "float32"}, "float32"),
        ({"soft_cap": 30.0}, "soft cap"),
        ({"head_dim": 100}, "heads of 100"),
        ({"head_dim": 512}, "heads of 512"),
        ({"num_queries": 1023}, "1023 positions"),
        ({"context_attention": "ring", "num_shards": 4}, "context_attention=ring"),
    ],
)
def test_what_it_cannot_do(changes, reason):
    given = why_not(on_gpu(**changes))
    assert given is None if reason is None else reason in given
