"""Every form of the attention kernel passes the real TPU compiler, which needs no TPU.

B batch, T length, N query heads, K key/value heads, H head dimension.
"""

import os

import jax
import jax.numpy as jnp
import pytest

from jaxllm.aot.hlo import parse_hlo
from jaxllm.kernels.attention import attention
from jaxllm.kernels.attention_splash import BLOCKS, attend
from jaxllm.parallel.mesh import ParallelConfig

pytestmark = pytest.mark.libtpu

# The compiler looks for a TPU machine unless told not to.
QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(topology, monkeypatch):
    from jax.experimental import topologies

    for name, value in QUIET.items():
        if name not in os.environ:
            monkeypatch.setenv(name, value)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)


def compiled(layout, *, length, num_kv_heads, head_dim=128, rows=1, **options):
    """The program of the result and its gradients."""

    def shaped(axes, *shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=layout.sharding(axes))

    rows *= layout.degree("batch")
    queries = ("batch", "length", "act_heads", None)
    keys = ("batch", "length", "act_kv_heads", None)
    arguments = (
        shaped(queries, rows, length, 4, head_dim),
        shaped(keys, rows, length, num_kv_heads, head_dim),
        shaped(keys, rows, length, num_kv_heads, head_dim),
        shaped(queries[:2], rows, length, dtype=jnp.int32),
    )

    def loss(q, k, v, segments):
        out = attention(q, k, v, segment_ids_BT=segments, layout=layout, **options)
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile().as_text()


@pytest.mark.parametrize(
    ("parallel", "options", "collective"),
    [
        ({"fsdp": 2, "tensor": 2}, {"window": 100, "soft_cap": 30.0, "head_dim": 64}, None),
        ({"context": 2}, {"window": 100}, "all-gather"),
        ({"context": 2, "context_attention": "ring"}, {}, "collective-permute"),
        ({"context": 2, "context_attention": "ulysses"}, {}, "all-to-all"),
    ],
)
def test_compiles_for_a_pod(parallel, options, collective, monkeypatch):
    layout = ParallelConfig.model_validate(parallel).build(devices("v5e:2x2", monkeypatch))
    text = compiled(layout, length=512, num_kv_heads=2, **options)
    assert "splash_mha_fwd_segmented" in text
    assert "splash_mha_dkv_segmented" in text
    assert collective is None or collective in text
    kernels = [
        each
        for computation in parse_hlo(text).computations.values()
        for each in computation.instructions.values()
        if each.target == "tpu_custom_call"
    ]
    assert len(kernels) >= 2
    # 512 positions are one block, or a few of which each has something to see.
    assert all("visits_1000_1000_1000" in each.op_name for each in kernels)


@pytest.mark.slow
@pytest.mark.parametrize("head_dim", [128, 256])
@pytest.mark.parametrize(
    ("chip", "topology"),
    [
        ("v4", "v4:2x2x1"),
        ("v5e", "v5e:2x2"),
        ("v5p", "v5p:2x2x1"),
        ("v6e", "v6e:2x2"),
        ("tpu7x", "tpu7x:2x2x1"),
    ],
)
@pytest.mark.parametrize("num_blocks", [2, 8, 16])
def test_the_blocks_of_every_chip_fit_its_memory(chip, topology, head_dim, num_blocks, monkeypatch):
    """With fused backward kernels, in key blocks of both sizes, and with separate ones."""
    sharding = jax.sharding.SingleDeviceSharding(devices(topology, monkeypatch)[0])
    length = num_blocks * BLOCKS[chip].query
    q = jax.ShapeDtypeStruct((1, length, 1, head_dim), jnp.bfloat16, sharding=sharding)
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=sharding)

    def loss(q, k, v, segments):
        out = attend(
            *(q, k, v),
            query_segments_BT=segments,
            key_segments_BS=segments,
            shard=None,
            window=None,
            soft_cap=30.0,
            chip=chip,
        )
        return jnp.sum(out.astype(jnp.float32))

    jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, q, q, segments).compile()
