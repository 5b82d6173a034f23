"""Attention with grouped queries, rotary positions and an optional key/value cache.

B batch, T new positions, S cache slots or positions of another text, D embed, N query heads,
K key/value heads, H head.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.kernels.attention import Implementation, attention
from jaxllm.nn.branch import Branch
from jaxllm.nn.linear import Dims, Linear
from jaxllm.nn.norm import Norm
from jaxllm.nn.param import Initializer
from jaxllm.nn.remat import kept
from jaxllm.nn.rope import Rope, rotate
from jaxllm.parallel.axes import Axis
from jaxllm.parallel.layouts import Layout, constrain

AttentionBias = Literal["none", "qkv", "out", "all"]
QkNorm = Literal["none", "head", "projection"]


class Cache(NamedTuple):
    """Keys and values already computed; slot i of a row holds its token i."""

    keys_BSKH: jax.Array
    values_BSKH: jax.Array


class Memory(NamedTuple):
    """Another text that is attended to.

    mask_BS: whether a position has a token; None is all. projected: one layer's keys and values
    of it, before any norm, where they were made already (`Attention.projected`).
    """

    x_BSD: jax.Array
    mask_BS: jax.Array | None = None
    projected: Cache | None = None

    def segment_ids(self, num_queries: int) -> tuple[jax.Array | None, jax.Array | None]:
        """(B, T) of queries and (B, S) of keys: every query sees the tokens, none the padding."""
        if self.mask_BS is None:
            return None, None
        queries_BT = jnp.ones((self.mask_BS.shape[0], num_queries), jnp.int32)
        return queries_BT, self.mask_BS.astype(jnp.int32)


@dataclass(frozen=True)
class Scores:
    """How scores are made and masked, as `kernels.attention` has it.

    rope: rotary positions; None is none. window_rope: those of layers with a window. window:
    keys that a query of such a layer sees. scale: None is 1 / sqrt(head).
    """

    rope: Rope | None = None
    window_rope: Rope | None = None
    is_causal: bool = True
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    implementation: Implementation = "auto"

    def turns(
        self, positions_BT: jax.Array, head_dim: int, is_windowed: jax.Array | bool
    ) -> tuple[jax.Array, jax.Array] | None:
        """The rotary angles' cosines and sines in this layer."""
        if self.rope is None:
            return None
        turns = self.rope.turns(positions_BT, head_dim)
        if self.window_rope == self.rope or self.window_rope is None or is_windowed is False:
            return turns
        window_turns = self.window_rope.turns(positions_BT, head_dim)
        if is_windowed is True:
            return window_turns
        return jax.tree.map(partial(jnp.where, is_windowed), window_turns, turns)

    def attend(
        self,
        q_BTNH: jax.Array,
        k_BSKH: jax.Array,
        v_BSKH: jax.Array,
        *,
        is_windowed: jax.Array | bool,
        segment_ids_BT: jax.Array | None = None,
        key_segment_ids_BS: jax.Array | None = None,
        query_slots_BT: jax.Array | None = None,
        bias_NTS: jax.Array | None = None,
        prefix_BS: jax.Array | None = None,
        layout: Layout | None,
    ) -> jax.Array:
        """(B, T, N, H), as `kernels.attention`."""

        def run(window: int | None, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attention(
                *(q, k, v),
                segment_ids_BT=segment_ids_BT,
                key_segment_ids_BS=key_segment_ids_BS,
                query_slots_BT=query_slots_BT,
                bias_NTS=bias_NTS,
                prefix_BS=prefix_BS,
                is_causal=self.is_causal,
                window=window,
                soft_cap=self.soft_cap,
                scale=self.scale,
                implementation=self.implementation,
                layout=layout,
            )

        if isinstance(is_windowed, bool):
            return run(self.window if is_windowed else None, q_BTNH, k_BSKH, v_BSKH)
        # Windows are static to kernels, layers of one stack share a program: it has both.
        branches = (partial(run, self.window), partial(run, None))
        return jax.lax.cond(is_windowed, *branches, q_BTNH, k_BSKH, v_BSKH)


class Attention(Branch):
    """softmax(q k) v over the positions that a query may see (arXiv:1706.03762, 2305.13245)."""

    def __init__(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scores: Scores,
        qk_norm: QkNorm,
        norm_epsilon: float,
        has_centered_scale: bool,
        bias: AttentionBias,
        init: Initializer,
        output_init: Initializer,
    ):
        q_key, k_key, v_key, out_key = jax.random.split(key, 4)
        embed: Dims = {"embed": embed_dim}
        queries: Dims = {"heads": num_heads, "head_dim": head_dim}
        keys: Dims = {"kv_heads": num_kv_heads, "head_dim": head_dim}
        self.scores = scores
        use_bias = bias in ("qkv", "all")
        self.query = Linear(q_key, inputs=embed, outputs=queries, use_bias=use_bias, init=init)
        self.key = Linear(k_key, inputs=embed, outputs=keys, use_bias=use_bias, init=init)
        self.value = Linear(v_key, inputs=embed, outputs=keys, use_bias=use_bias, init=init)
        self.out = Linear(
            out_key,
            inputs=queries,
            outputs=embed,
            use_bias=bias in ("out", "all"),
            init=output_init,
        )

        def norm(key: jax.Array, dims: Dims) -> Norm:
            axes: tuple[Axis, ...] = ("head_dim",) if qk_norm == "head" else tuple(dims)
            return Norm(
                key,
                axis=axes,
                size=tuple(dims[axis] for axis in axes),
                norm_type="rms",
                epsilon=norm_epsilon,
                has_centered_scale=has_centered_scale,
            )

        # QK-norm (arXiv:2302.05442) keeps attention logits bounded at high learning rates.
        self.query_norm = None if qk_norm == "none" else norm(q_key, queries)
        self.key_norm = None if qk_norm == "none" else norm(k_key, keys)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        cache: Cache | None,
        is_windowed: jax.Array | bool = False,
        memory: Memory | None = None,
        bias_NTS: jax.Array | None = None,
        prefix_BS: jax.Array | None = None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Cache | None]:
        """(B, T, D) -> (B, T, D) and the cache with the new keys and values in it.

        With a cache, positions_BT are also the slots that the new tokens fill. is_windowed:
        whether this layer has the window. memory: what keys and values are made of, and what says
        which of them are seen; default x and segment_ids_BT. bias_NTS: added to the scores.
        prefix_BS: nonzero for keys, or slots of the cache, that are seen from before them too.
        """
        source_BSD, projected, key_segment_ids_BS = x_BTD, None, None
        if memory is not None:
            source_BSD, projected = memory.x_BSD, memory.projected
            segment_ids_BT, key_segment_ids_BS = memory.segment_ids(x_BTD.shape[1])
        q_BTNH = self.query(x_BTD)
        k_BSKH = self.key(source_BSD) if projected is None else projected.keys_BSKH
        if self.query_norm is not None and self.key_norm is not None:
            q_BTNH, k_BSKH = self.query_norm(q_BTNH), self.key_norm(k_BSKH)
        turns = self.scores.turns(positions_BT, q_BTNH.shape[-1], is_windowed)
        if turns is not None:
            q_BTNH, k_BSKH = rotate(q_BTNH, turns), rotate(k_BSKH, turns)
        q_BTNH = constrain(layout, q_BTNH, "batch", "length", "act_heads", None)
        k_BSKH = constrain(layout, k_BSKH, "batch", "length", "act_kv_heads", None)
        v_BSKH = self.value(source_BSD) if projected is None else projected.values_BSKH
        v_BSKH = constrain(layout, v_BSKH, "batch", "length", "act_kv_heads", None)
        q_BTNH, k_BSKH, v_BSKH = kept(q_BTNH, "query"), kept(k_BSKH, "key"), kept(v_BSKH, "value")
        slots_BT = None
        if cache is not None:
            cache = extend(cache, k_BSKH, v_BSKH, positions_BT)
            (k_BSKH, v_BSKH), slots_BT = cache, positions_BT
        out_BTNH = self.scores.attend(
            *(q_BTNH, k_BSKH, v_BSKH),
            is_windowed=is_windowed,
            segment_ids_BT=segment_ids_BT,
            key_segment_ids_BS=key_segment_ids_BS,
            query_slots_BT=slots_BT,
            bias_NTS=bias_NTS,
            prefix_BS=prefix_BS,
            layout=layout,
        )
        return self.out(out_BTNH), cache

    def projected(self, x_BSD: jax.Array) -> Cache:
        """Keys and values of a memory, for many calls."""
        return Cache(self.key(x_BSD), self.value(x_BSD))


def extend(cache: Cache, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array) -> Cache:
    """The cache with new keys and values written to each row's own slots."""
    rows_B1 = jnp.arange(k_BTKH.shape[0])[:, None]
    return Cache(
        cache.keys_BSKH.at[rows_B1, slots_BT].set(k_BTKH),
        cache.values_BSKH.at[rows_B1, slots_BT].set(v_BTKH),
    )
