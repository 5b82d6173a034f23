"""What is asked of an attention kernel, for kernels to say whether they can do it."""

from dataclasses import dataclass

import jax

from jaxllm.parallel.layouts import Layout


@dataclass(frozen=True)
class AttentionRequest:
    """The shapes and options of one attention, global, and where it will run.

    platform: cpu, gpu or tpu. num_shards: parts that the length is cut in. is_zigzag: whether
    each part is two stretches of a row. num_heads and num_kv_heads: of one device. is_cross:
    queries and keys are of different rows. has_prefix: queries see keys of a prefix behind theirs.
    """

    platform: str
    dtype: str
    num_queries: int
    head_dim: int
    num_heads: int
    num_kv_heads: int
    has_segments: bool
    has_cache: bool
    window: int | None
    soft_cap: float | None
    context_attention: str | None
    num_shards: int
    is_causal: bool = True
    is_cross: bool = False
    has_bias: bool = False
    has_prefix: bool = False

    @property
    def stretch(self) -> int:
        """Positions that a device surely holds one after the other."""
        if self.context_attention in (None, "ulysses"):
            return self.num_queries
        return self.num_queries // (2 * self.num_shards)


def describe(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    *,
    has_segments: bool,
    has_cache: bool,
    window: int | None,
    soft_cap: float | None,
    layout: Layout | None,
    is_causal: bool = True,
    is_cross: bool = False,
    has_bias: bool = False,
    has_prefix: bool = False,
) -> AttentionRequest:
    """The request that `attention` was called with."""
    num_shards = 1 if layout is None else layout.degree("length")
    head_shards = 1 if layout is None else layout.degree("act_heads")
    kv_head_shards = 1 if layout is None else layout.degree("act_kv_heads")
    return AttentionRequest(
        platform=jax.default_backend() if layout is None else layout.platform,
        dtype=q_BTNH.dtype.name,
        num_queries=q_BTNH.shape[1],
        head_dim=q_BTNH.shape[3],
        num_heads=q_BTNH.shape[2] // head_shards,
        num_kv_heads=k_BSKH.shape[2] // kv_head_shards,
        has_segments=has_segments,
        has_cache=has_cache,
        window=window,
        soft_cap=soft_cap,
        context_attention=None if layout is None or num_shards == 1 else layout.context_attention,
        num_shards=num_shards,
        is_causal=is_causal,
        is_cross=is_cross,
        has_bias=has_bias,
        has_prefix=has_prefix,
    )
