"""Attention whose keys and values are made of one small vector a token (arXiv:2405.04434).

B batch, T new positions, S cache slots, D embed, N heads, H head, P its rotated part, V head of
the values, Q and R width of the vectors that queries and keys and values are made of.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from pydantic import PositiveInt, field_validator

from jaxllm.nn.attention import Cache, Scores, extend
from jaxllm.nn.branch import Branch
from jaxllm.nn.linear import Dims, Linear
from jaxllm.nn.norm import Norm
from jaxllm.nn.param import Initializer
from jaxllm.nn.remat import Activation, kept
from jaxllm.nn.rope import rotate
from jaxllm.nn.rope_scaling import YarnScaling
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.schema import Config

NORM_EPSILON = 1e-6  # of the small vectors' norms, whatever the other norms have


class LatentConfig(Config):
    """Multi-head latent attention, as DeepSeek-V3 has it."""

    query_rank: PositiveInt | None = None
    """Width of the vector that queries are made of; null makes them of the residual stream."""
    kv_rank: PositiveInt
    """Width of the vector that keys and values are made of."""
    plain_dim: PositiveInt
    """Width of a head's queries and keys without positions."""
    rope_dim: PositiveInt
    """Width of the rotated part of a head's queries, and of the one such part of all keys."""
    value_dim: PositiveInt
    """Width of a head's values."""

    @field_validator("rope_dim")
    @classmethod
    def _are_pairs(cls, rope_dim: int) -> int:
        if rope_dim % 2:
            raise ValueError(f"rope_dim={rope_dim} is odd; rotary positions rotate pairs")
        return rope_dim

    def build(
        self,
        key: jax.Array,
        *,
        embed_dim: int,
        num_heads: int,
        scores: Scores,
        init: Initializer,
        output_init: Initializer,
    ) -> "LatentAttention":
        """A new layer."""
        scale = scores.scale or (self.plain_dim + self.rope_dim) ** -0.5
        if scores.rope is not None and isinstance(scores.rope.scaling, YarnScaling):
            scale *= scores.rope.scaling.score_factor
        return LatentAttention(
            key,
            self,
            embed_dim=embed_dim,
            num_heads=num_heads,
            scores=replace(scores, scale=scale),
            init=init,
            output_init=output_init,
        )


class LatentAttention(Branch):
    """Self-attention like `Attention`; a cache holds the small vectors instead of all heads."""

    def __init__(
        self,
        key: jax.Array,
        config: LatentConfig,
        *,
        embed_dim: int,
        num_heads: int,
        scores: Scores,
        init: Initializer,
        output_init: Initializer,
    ):
        q_key, k_key, v_key, down_key, rope_key, out_key = jax.random.split(key, 6)
        self.scores = scores

        def linear(key: jax.Array, inputs: Dims, outputs: Dims) -> Linear:
            return Linear(key, inputs=inputs, outputs=outputs, use_bias=False, init=init)

        def norm(size: int) -> Norm:
            return Norm(key, axis="latent", size=size, norm_type="rms", epsilon=NORM_EPSILON)

        def heads(width: int) -> Dims:
            return {"heads": num_heads, "head_dim": width}

        embed: Dims = {"embed": embed_dim}
        rank = config.query_rank
        self.query_down = None if rank is None else linear(q_key, embed, {"latent": rank})
        self.query_norm = None if rank is None else norm(rank)
        query_source: Dims = embed if rank is None else {"latent_input": rank}
        self.query = linear(jax.random.fold_in(q_key, 1), query_source, heads(config.plain_dim))
        self.query_rope = linear(jax.random.fold_in(q_key, 2), query_source, heads(config.rope_dim))
        self.down = linear(down_key, embed, {"latent": config.kv_rank})
        self.norm = norm(config.kv_rank)
        kv_source: Dims = {"latent_input": config.kv_rank}
        self.key = linear(k_key, kv_source, heads(config.plain_dim))
        self.key_rope = linear(rope_key, embed, {"head_dim": config.rope_dim})
        self.value = linear(v_key, kv_source, heads(config.value_dim))
        self.out = Linear(
            out_key,
            inputs=heads(config.value_dim),
            outputs=embed,
            use_bias=False,
            init=output_init,
        )

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        cache: Cache | None,
        is_windowed: jax.Array | bool = False,
        layout: Layout | None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `Attention`; a cache holds rotated keys (B, S, 1, P), small vectors (B, S, 1, R)."""
        source = x_BTD
        if self.query_down is not None and self.query_norm is not None:
            source = self.query_norm(self.query_down(x_BTD))
        turns = self.scores.turns(positions_BT, self.key_rope.spec.shape[-1], is_windowed)
        assert turns is not None, "latent attention without rotary positions"
        query_BTNH = self.query(source)
        query_BTNP = rotate(self.query_rope(source), turns)
        latent_BTR = self.norm(self.down(x_BTD))
        key_BT1P = rotate(self.key_rope(x_BTD)[:, :, None], turns)
        if cache is None:
            out_BTNV = self._heads(
                (query_BTNH, query_BTNP), latent_BTR, key_BT1P, segment_ids_BT, is_windowed, layout
            )
        else:
            cache = extend(cache, key_BT1P, latent_BTR[:, :, None], positions_BT)
            out_BTNV = self._cached((query_BTNH, query_BTNP), cache, positions_BT, is_windowed)
        return self.out(out_BTNV), cache

    def _heads(
        self,
        queries: tuple[jax.Array, jax.Array],
        latent_BTR: jax.Array,
        key_BT1P: jax.Array,
        segment_ids_BT: jax.Array | None,
        is_windowed: jax.Array | bool,
        layout: Layout | None,
    ) -> jax.Array:
        """Keys and values of every head written out, for kernels that take nothing else."""
        key_BTNH = self.key(latent_BTR)
        shared_BTNP = jnp.broadcast_to(key_BT1P, (*key_BTNH.shape[:3], key_BT1P.shape[3]))

        def placed(x_BTNH: jax.Array, name: Activation) -> jax.Array:
            return kept(constrain(layout, x_BTNH, "batch", "length", "act_heads", None), name)

        return self.scores.attend(
            placed(jnp.concatenate(queries, axis=-1), "query"),
            placed(jnp.concatenate([key_BTNH, shared_BTNP], axis=-1), "key"),
            placed(self.value(latent_BTR), "value"),
            is_windowed=is_windowed,
            segment_ids_BT=segment_ids_BT,
            layout=layout,
        )

    def _cached(
        self,
        queries: tuple[jax.Array, jax.Array],
        cache: Cache,
        positions_BT: jax.Array,
        is_windowed: jax.Array | bool,
    ) -> jax.Array:
        """One key head, the small vector, that all query heads share.

        (q W) . c is q . (W c), so queries pass the keys' projection backward and results the
        values' projection forward, and no head's keys are ever written out.
        """
        query_BTNH, query_BTNP = queries
        query_BTNR = self.key.each_transposed(query_BTNH)
        latent_BS1R = cache.values_BSKH
        out_BTNR = self.scores.attend(
            jnp.concatenate([query_BTNR, query_BTNP], axis=-1),
            jnp.concatenate([latent_BS1R, cache.keys_BSKH], axis=-1),
            latent_BS1R,
            is_windowed=is_windowed,
            query_slots_BT=positions_BT,
            layout=None,
        )
        return self.value.each(out_BTNR)
