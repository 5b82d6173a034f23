"""Self-attention with grouped queries, rotary positions and an optional key/value cache.

B batch, T new positions, S cache slots, D embed, N query heads, K key/value heads, H head.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.kernels.attention import Implementation, attention
from jaxllm.nn.linear import Dims, Linear
from jaxllm.nn.norm import Norm
from jaxllm.nn.param import Initializer
from jaxllm.nn.remat import kept
from jaxllm.nn.rope import rotate
from jaxllm.parallel.layouts import Layout, constrain


class Cache(NamedTuple):
    """Keys and values already computed; slot i of a row holds its token i."""

    keys_BSKH: jax.Array
    values_BSKH: jax.Array


class Attention(nnx.Module):
    """softmax(q k) v over causal, same-document positions (arXiv:1706.03762, 2305.13245)."""

    def __init__(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rope_theta: float | None,
        qk_norm_epsilon: float | None,
        use_bias: bool,
        implementation: Implementation,
        init: Initializer,
        output_init: Initializer,
    ):
        q_key, k_key, v_key, out_key = jax.random.split(key, 4)
        embed: Dims = {"embed": embed_dim}
        queries: Dims = {"heads": num_heads, "head_dim": head_dim}
        keys: Dims = {"kv_heads": num_kv_heads, "head_dim": head_dim}
        self.rope_theta = rope_theta
        self.implementation = implementation
        self.query = Linear(q_key, inputs=embed, outputs=queries, use_bias=use_bias, init=init)
        self.key = Linear(k_key, inputs=embed, outputs=keys, use_bias=use_bias, init=init)
        self.value = Linear(v_key, inputs=embed, outputs=keys, use_bias=use_bias, init=init)
        self.out = Linear(
            out_key, inputs=queries, outputs=embed, use_bias=use_bias, init=output_init
        )
        # QK-norm (arXiv:2302.05442) keeps attention logits bounded at high learning rates.
        self.query_norm = self._head_norm(q_key, head_dim, qk_norm_epsilon)
        self.key_norm = self._head_norm(k_key, head_dim, qk_norm_epsilon)

    @staticmethod
    def _head_norm(key: jax.Array, size: int, epsilon: float | None) -> Norm | None:
        if epsilon is None:
            return None
        return Norm(key, axis="head_dim", size=size, norm_type="rms", epsilon=epsilon)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        cache: Cache | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, Cache | None]:
        """(B, T, D) -> (B, T, D) and the cache with the new keys and values in it.

        With a cache, positions_BT are also the slots that the new tokens fill.
        """
        q_BTNH = self.query(x_BTD)
        k_BTKH = self.key(x_BTD)
        if self.query_norm is not None and self.key_norm is not None:
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        if self.rope_theta is not None:
            q_BTNH = rotate(q_BTNH, positions_BT, theta=self.rope_theta)
            k_BTKH = rotate(k_BTKH, positions_BT, theta=self.rope_theta)
        q_BTNH = constrain(layout, q_BTNH, "batch", "length", "act_heads", None)
        k_BTKH = constrain(layout, k_BTKH, "batch", "length", "act_kv_heads", None)
        v_BTKH = constrain(layout, self.value(x_BTD), "batch", "length", "act_kv_heads", None)
        q_BTNH, k_BTKH, v_BTKH = kept(q_BTNH, "query"), kept(k_BTKH, "key"), kept(v_BTKH, "value")
        if cache is None:
            k_BSKH, v_BSKH, slots_BT = k_BTKH, v_BTKH, None
        else:
            cache = extend(cache, k_BTKH, v_BTKH, positions_BT)
            k_BSKH, v_BSKH, slots_BT = cache.keys_BSKH, cache.values_BSKH, positions_BT
        out_BTNH = attention(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            segment_ids_BT=segment_ids_BT,
            query_slots_BT=slots_BT,
            implementation=self.implementation,
            layout=layout,
        )
        return self.out(out_BTNH), cache


def extend(cache: Cache, k_BTKH: jax.Array, v_BTKH: jax.Array, slots_BT: jax.Array) -> Cache:
    """The cache with new keys and values written to each row's own slots."""
    rows_B1 = jnp.arange(k_BTKH.shape[0])[:, None]
    return Cache(
        cache.keys_BSKH.at[rows_B1, slots_BT].set(k_BTKH),
        cache.values_BSKH.at[rows_B1, slots_BT].set(v_BTKH),
    )
