"""Attention over positions on several devices equals attention on one."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxllm.kernels import attention_splash
from jaxllm.kernels.attention import attention
from jaxllm.kernels.attention_context import over_devices
from jaxllm.kernels.attention_ring import BlockKernel
from jaxllm.kernels.attention_splash import Blocks
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.zigzag import natural_order, zigzag_order

from .attention_reference import causal_mask, check, random_case, reference, with_gradients


def layout_of(**parallel):
    config = ParallelConfig.model_validate(parallel)
    sizes = (config.data, config.fsdp, config.context, config.tensor)
    return config.build(jax.devices()[: np.prod([size or 1 for size in sizes])])


def in_layout(call, layout, length):
    """`call` of arrays in row order, which it gets, and gives back, in the layout's order."""
    order, back = np.arange(length), np.arange(length)
    if layout.is_zigzag:
        shards = layout.axis_size("context")
        order, back = zigzag_order(length, shards), natural_order(length, shards)

    def ordered(q, k, v, segments):
        return call(q[:, order], k[:, order], v[:, order], segments[:, order])[:, back]

    return ordered


@pytest.mark.parametrize(
    ("parallel", "options"),
    [
        ({"context": 4, "data": 2}, {"window": 5, "soft_cap": 2.0}),
        ({"context": 2, "tensor": 2}, {}),
        ({"context": 4, "data": 2, "context_attention": "ring"}, {"soft_cap": 2.0}),
        ({"context": 2, "tensor": 2, "context_attention": "ring"}, {}),
        ({"context": 4, "data": 2, "context_attention": "ulysses"}, {"window": 5, "soft_cap": 2.0}),
        ({"context": 2, "tensor": 2, "context_attention": "ulysses"}, {}),
    ],
)
def test_equals_float64(parallel, options):
    length = 32
    arrays, segments = random_case(length, num_heads=8, num_kv_heads=4)
    layout = layout_of(**parallel)
    has_segments = bool(options)  # one document a row otherwise

    def call(q, k, v, segments):
        segments = segments if has_segments else None
        return attention(q, k, v, segment_ids_BT=segments, layout=layout, **options)

    ordered = in_layout(call, layout, length)
    results = with_gradients(lambda q, k, v: ordered(q, k, v, segments), *arrays)
    seen = segments if has_segments else None
    mask = causal_mask(length, segments_BT=seen, window=options.get("window"))
    check(results, reference(*arrays, mask_BTS=mask, soft_cap=options.get("soft_cap")))


@pytest.mark.parametrize("way", ["all_gather", "ring"])
def test_the_tpu_kernel_inside(way, monkeypatch):
    """Splash, interpreted: its masks by shard, and the ring through its backward kernels."""
    monkeypatch.setattr(attention_splash, "OTHER_CHIPS", Blocks(128, 128, 128))
    length = 512
    arrays, segments = random_case(length, num_heads=2, num_kv_heads=1, rows=1)
    layout = layout_of(context=2, context_attention=way)
    options = {"soft_cap": 2.0, "chip": None, "interpret": True}
    window = 300 if way == "all_gather" else None
    call = partial(
        over_devices,
        layout=layout,
        attend=partial(attention_splash.attend, window=window, **options),
        blocks=BlockKernel(
            partial(attention_splash.block_forward, **options),
            partial(attention_splash.block_backward, **options),
        ),
    )
    ordered = in_layout(call, layout, length)
    results = with_gradients(lambda q, k, v: ordered(q, k, v, segments), *arrays)
    mask = causal_mask(length, segments_BT=segments, window=window)
    check(results, reference(*arrays, mask_BTS=mask, soft_cap=2.0))


@pytest.mark.parametrize(
    ("parallel", "options", "message"),
    [
        ({"context_attention": "ring"}, {"window": 4}, r"parallel\.context_attention=ring.*window"),
        (
            {"context_attention": "ulysses", "context": 4},
            {},
            r"parallel\.context=4 does not divide the 2 key/value heads",
        ),
        ({"context": 8}, {}, r"data\.sequence_length: 24 positions.*16 parts.*parallel\.context=8"),
        (
            {},
            {"query_slots_BT": np.zeros((2, 24), np.int32)},
            r"parallel\.context=2: a key/value cache",
        ),
        ({}, {"implementation": "splash"}, r"model\.attention: splash cannot do the platform cpu"),
    ],
)
def test_refusals_name_the_key(parallel, options, message):
    (q, k, v, _), _ = random_case(24)
    with pytest.raises(ValueError, match=message):
        attention(q, k, v, layout=layout_of(**({"context": 2} | parallel)), **options)
