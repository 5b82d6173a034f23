"""Attention on TPUs: JAX's splash kernel, which never holds the scores in memory.

B batch, T queries, S keys, N query heads, K key/value heads, H head dimension. Everything here
is one device's part.

The kernel's public face gives results and gradients of whole attention. A ring needs more: its
backward kernels, given the log-sum-exp of all keys. They are taken from the module behind the
public one (`_splash_attention_bwd`, as of the pinned jax; the ring's tests go through it).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.kernels.attention_request import AttentionRequest
from jaxllm.parallel.zigzag import Shard, zigzag_order

LANES = 128  # positions that the kernel's tiles are multiples of

# The scope that a kernel runs in: which thousandths of all pairs of query and key it computes,
# forward, for the gradients of queries, and for those of keys and values. A compiled program does
# not say, because the mask is data to it.
VISITS = "visits_{}_{}_{}"

# The name under which a remat policy may keep the kernel's result and log-sum-exp.
RESIDUALS = "attention"


class Blocks(NamedTuple):
    """Positions that one step of the kernel holds in VMEM, at most; forward and backward.

    key_compute: those of a key block whose scores are computed at once. max_head_dim: wider heads
    take half of query and key.
    """

    query: int
    key: int
    key_compute: int
    max_head_dim: int = 256


# By chip name. What was compared is the length of the compiled kernel's schedule, in cycles for
# 512 x 512 scores of a head of 128, forward and (fused) backward, without stalls:
#                           v4            v5e           v5p           v6e           tpu7x
#   512,  512,  512      2926, 4009    1766, 2847    1962, 3046    1281, 1923    1249, 1856
#   1024, 1024, 512      2316, 3370    1390, 2474    1458, 2537    1008, 1621    1004, 1520
#   2048, 1024, 512      no room       -             no room       1000, 1538    -
# Blocks of 2048 save less than they lose on the diagonal, where half of a block is masked. On v4
# and v5p, blocks of this size with heads of 256 need 17 MiB of the 16 that a kernel may use.
BLOCKS: dict[str, Blocks] = {
    "v4": Blocks(1024, 1024, 512, max_head_dim=128),
    "v5e": Blocks(1024, 1024, 512),
    "v5p": Blocks(1024, 1024, 512, max_head_dim=128),
    "v6e": Blocks(1024, 1024, 512),
    "tpu7x": Blocks(1024, 1024, 512),
}
OTHER_CHIPS = Blocks(512, 512, 512, max_head_dim=128)

# The fused backward kernel computes the scores once rather than twice (30% less on v5e), but
# holds the queries' gradient once for every block of keys: taken while these are so few, if need
# be with key blocks of twice the size (22% less, with what is lost on the diagonal).
MAX_QUERY_GRADIENTS = 4


class Mask(NamedTuple):
    """Which keys queries see. num_shards: more than one deals out the queries in zigzag."""

    num_queries: int
    num_keys: int
    is_causal: bool = True
    window: int | None = None
    num_shards: int = 1

    @property
    def stretch(self) -> int:
        """Queries that lie together: a block within them is far from the diagonal or on it."""
        return self.num_queries // (1 if self.num_shards == 1 else 2 * self.num_shards)

    def build(self) -> Any:
        """The kernel's own description."""
        from jax.experimental.pallas.ops.tpu import splash_attention as splash

        shape = (self.num_queries, self.num_keys)
        if not self.is_causal:
            return splash.FullMask(shape)

        class Local(splash.LocalMask):
            """Compares positions only in blocks that the edges of the mask pass through.

            The kernel's builder looks at every block, of which long rows have ten thousands.
            """

            def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
                queries = self.q_sequence[block[0]]
                first, last = queries.min(), queries.max()
                start, stop = block[1].start, block[1].stop
                after = self.window_size[0]
                if stop <= first + 1 and (after is None or start >= last - after):
                    return _constant(True, (len(queries), stop - start))
                if start > last or (after is not None and stop <= first - after):
                    return _constant(False, (len(queries), stop - start))
                return super().__getitem__(block)

        mask = Local(shape, (None if self.window is None else self.window - 1, 0), offset=0)
        if self.num_shards > 1:
            mask.q_sequence = zigzag_order(self.num_queries, self.num_shards)
        return mask


@lru_cache(maxsize=8)
def _constant(value: bool, shape: tuple[int, int]) -> np.ndarray:
    return np.full(shape, value)


def why_not(request: AttentionRequest) -> str | None:
    """What splash could not do or would ignore of a request, or None."""
    if request.platform != "tpu":
        return f"the platform {request.platform} (only TPUs)"
    if request.has_cache:
        return "a key/value cache"
    if request.has_bias or request.is_cross:
        return "a bias on scores" if request.has_bias else "queries and keys of different rows"
    if request.has_prefix:
        return "a prefix that is seen as a whole"
    if request.stretch % LANES:
        return (
            f"stretches of {request.stretch} positions (data.sequence_length over the shards of "
            f"parallel.context; only multiples of {LANES})"
        )
    return None


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    shard: Shard | None,
    window: int | None,
    soft_cap: float | None,
    chip: str | None,
    is_causal: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """As `attention_xla.attend`, on a chip of this name. interpret: slowly, on any platform."""
    S = k_BSKH.shape[1]
    kernel = _kernel(
        Mask(S, S, is_causal, window, num_shards=1 if shard is None else shard.num_shards),
        head_dim=q_BTNH.shape[3],
        soft_cap=soft_cap,
        chip=chip,
        interpret=interpret,
        residual_checkpoint_name=RESIDUALS,
    )
    scope = visits(kernel, S, S)
    if shard is not None:
        kernel = jax.tree.map(lambda leaf: _part(leaf, shard), kernel)
    with jax.named_scope(scope):
        out_BNTH = jax.vmap(kernel)(
            (q_BTNH * q_BTNH.shape[3] ** -0.5).swapaxes(1, 2),
            k_BSKH.swapaxes(1, 2),
            v_BSKH.swapaxes(1, 2),
            _segments(query_segments_BT, key_segments_BS),
        )
    return out_BNTH.swapaxes(1, 2)


def _part(leaf: jax.Array, shard: Shard) -> jax.Array:
    """A shard's part of what a kernel knows of its mask: (T,), or (1, blocks of T, blocks of S)."""
    axis = 0 if leaf.ndim == 1 else 1
    size = leaf.shape[axis] // shard.num_shards
    return jax.lax.dynamic_slice_in_dim(leaf, shard.index * size, size, axis)


def block_forward(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    *,
    is_causal: bool,
    soft_cap: float | None,
    chip: str | None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """As `attention_xla.block_forward`."""
    kernel = _kernel(
        Mask(q_BNTH.shape[2], k_BKSH.shape[2], is_causal),
        head_dim=q_BNTH.shape[3],
        soft_cap=soft_cap,
        chip=chip,
        interpret=interpret,
        save_residuals=True,
    )
    with jax.named_scope(visits(kernel, q_BNTH.shape[2], k_BKSH.shape[2])):
        out_BNTH, (log_normalizer_BNT,) = jax.vmap(kernel)(
            q_BNTH, k_BKSH, v_BKSH, _segments(query_segments_BT, key_segments_BS)
        )
    return out_BNTH, log_normalizer_BNT


def block_backward(
    q_BNTH: jax.Array,
    k_BKSH: jax.Array,
    v_BKSH: jax.Array,
    query_segments_BT: jax.Array | None,
    key_segments_BS: jax.Array | None,
    out_BNTH: jax.Array,
    log_normalizer_BNT: jax.Array,
    g_BNTH: jax.Array,
    *,
    is_causal: bool,
    soft_cap: float | None,
    chip: str | None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `attention_xla.block_backward`."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    mask = Mask(q_BNTH.shape[2], k_BKSH.shape[2], is_causal)
    kernel = _kernel(
        mask, head_dim=q_BNTH.shape[3], soft_cap=soft_cap, chip=chip, interpret=interpret
    )

    def one_row(*row: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, segments, out, log_normalizer, g = row
        sinks = None
        saved = (q, k, v, segments, sinks, out, log_normalizer)
        gradients = splash._splash_attention_bwd(
            res=(*saved, kernel.dq_mask_info, kernel.dkv_mask_info), do=g, **kernel.kwargs
        )
        return gradients[3:6]  # after those of the three descriptions of the mask

    segments = _segments(query_segments_BT, key_segments_BS)
    with jax.named_scope(visits(kernel, q_BNTH.shape[2], k_BKSH.shape[2])):
        return jax.vmap(one_row)(
            q_BNTH, k_BKSH, v_BKSH, segments, out_BNTH, log_normalizer_BNT, g_BNTH
        )


def _kernel(
    mask: Mask, *, head_dim: int, chip: str | None, **options: bool | float | str | None
) -> Any:
    """The kernel of one mask, which serves every head of one row."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    blocks = BLOCKS.get(chip or "", OTHER_CHIPS)
    part = 1 if head_dim <= blocks.max_head_dim else 2
    query = divisor(mask.stretch, blocks.query // part)
    key = divisor(mask.num_keys, blocks.key // part)
    # Of the backward pass: the first that lets it be fused, if one does.
    keys = (key, divisor(mask.num_keys, 2 * key))
    fused = [size for size in keys if mask.num_keys // size <= MAX_QUERY_GRADIENTS]
    backward_key = fused[0] if fused else key
    sizes = splash.BlockSizes(
        block_q=query,
        block_kv=key,
        block_kv_compute=divisor(key, blocks.key_compute),
        block_q_dkv=query,
        block_kv_dkv=backward_key,
        block_kv_dkv_compute=divisor(backward_key, blocks.key_compute),
        block_q_dq=None if fused else query,
        block_kv_dq=None if fused else key,
        use_fused_bwd_kernel=bool(fused),
    )
    return _built(mask, sizes, **options)


@lru_cache(maxsize=64)
def _built(
    mask: Mask,
    sizes: Any,
    *,
    soft_cap: float | None,
    interpret: bool,
    save_residuals: bool = False,
    residual_checkpoint_name: str | None = None,
) -> Any:
    """Kept, because a model is traced several times and long rows have many blocks."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    with jax.ensure_compile_time_eval():
        kernel = splash.make_splash_mha(
            splash.MultiHeadMask([mask.build()]),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=mask.num_shards,
            attn_logits_soft_cap=soft_cap,
            save_residuals=save_residuals,
            residual_checkpoint_name=residual_checkpoint_name,
            interpret=interpret,
        )
        return jax.tree.map(np.asarray, kernel)  # belongs to no device, nor to one trace


def visits(kernel: Any, num_queries: int, num_keys: int) -> str:
    """The scope `VISITS` of a kernel of a whole mask, of which shards have equal parts."""
    sizes = kernel.kwargs["block_sizes"]

    def thousandths(mask: Any, query: int, key: int) -> int:
        if mask is None or mask.block_mask is None:  # no such kernel; every block
            return 1000
        visited = int(np.count_nonzero(mask.block_mask)) * query * key
        return round(1000 * visited / (mask.block_mask.shape[0] * num_queries * num_keys))

    return VISITS.format(
        thousandths(kernel.fwd_mask_info, sizes.block_q, sizes.block_kv),
        thousandths(kernel.dq_mask_info, sizes.block_q_dq, sizes.block_kv_dq),
        thousandths(kernel.dkv_mask_info, sizes.block_q_dkv, sizes.block_kv_dkv),
    )


def divisor(length: int, at_most: int) -> int:
    """The largest whole number of tiles that divides `length` and is not above `at_most`."""
    assert length % LANES == 0, length
    return max(size for size in range(LANES, at_most + 1, LANES) if length % size == 0)


def _segments(query_segments_BT: jax.Array | None, key_segments_BS: jax.Array | None) -> Any:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    if query_segments_BT is None or key_segments_BS is None:
        return None
    return splash.SegmentIds(query_segments_BT, key_segments_BS)
