"""The decoder-only transformer, with the options that GPT-2 and Llama need.

B batch, T length, S cache slots, D embed, K key/value heads, H head, L layers, V vocabulary.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jaxllm.kernels.attention import Implementation
from jaxllm.nn.attention import Attention, Cache
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.embed import Embedding
from jaxllm.nn.linear import Linear
from jaxllm.nn.mlp import Activation, Mlp
from jaxllm.nn.moe import Moe, MoeConfig
from jaxllm.nn.norm import Norm, NormType
from jaxllm.nn.param import Initializer, Nested, fan_in_normal, normal, zeros
from jaxllm.nn.remat import OffloadPolicy, RematPolicy, check_offload, kept
from jaxllm.nn.router import RouterSums, rebalanced
from jaxllm.nn.stack import Stack
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.stages import outside
from jaxllm.schema import Config

Dtype = Literal["auto", "float32", "bfloat16"]
# What a layer, or a stack of them, reports besides its activations.
LayerResults = tuple[Cache | None, RouterSums | None]


class DecoderConfig(Config):
    """A decoder-only transformer. The defaults are a small Llama."""

    type: Literal["decoder"] = "decoder"
    """Kind of network: a decoder."""
    vocab_size: PositiveInt | None = None
    """Rows of the embedding; null is the tokenizer's size rounded up to a multiple of 64."""
    num_layers: PositiveInt = 4
    """Number of transformer blocks."""
    embed_dim: PositiveInt = 256
    """Width of the residual stream."""
    num_heads: PositiveInt = 4
    """Number of query heads."""
    num_kv_heads: PositiveInt | None = None
    """Number of key/value heads, a divisor of num_heads; null is num_heads."""
    head_dim: PositiveInt | None = None
    """Width of one head; null is embed_dim / num_heads."""
    mlp_dim: PositiveInt | None = None
    """Width of the feed-forward layer; null is 4 * embed_dim."""
    norm: NormType = "rms"
    """Normalisation before attention, feed-forward and output: rms or layer."""
    norm_epsilon: PositiveFloat = 1e-6
    """Added to the variance in every norm."""
    positions: Literal["rope", "learned"] = "rope"
    """Rotary positions, or a learned table of max_length rows."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    max_length: PositiveInt = 1024
    """Rows of the learned position table, in tokens; unused with rope."""
    has_qk_norm: bool = False
    """Whether queries and keys are RMS-normalised per head."""
    is_gated: bool = True
    """Whether the feed-forward layer has a gate (SwiGLU, GeGLU)."""
    activation: Activation = "silu"
    """Nonlinearity of the feed-forward layer: silu, gelu, gelu_exact, relu or relu_squared."""
    moe: MoeConfig | None = None
    """Mixture of experts in place of the feed-forward layers; null is dense ones."""
    is_tied: bool = False
    """Whether the output projection is the transposed embedding."""
    use_bias: bool = False
    """Whether linear layers and layer norms have biases."""
    dropout: NonNegativeFloat = Field(0.0, lt=1.0)
    """Probability of zeroing an element of each residual branch and of the embedding."""
    logit_soft_cap: PositiveFloat | None = None
    """Logits become cap * tanh(logits / cap); null is off."""
    init_std: PositiveFloat | None = None
    """Standard deviation of hidden matrices at the start; null is 1 / sqrt(fan-in)."""
    embed_init_std: PositiveFloat = 0.02
    """Standard deviation of the embeddings at the start."""
    residual_init: Literal["same", "depth_scaled", "zero"] = "same"
    """Start of projections back into the residual stream: same, / sqrt(2 num_layers), or zero."""
    output_init: Literal["same", "zero"] = "same"
    """The untied output projection starts like hidden matrices or at 0."""
    dtype: Dtype = "auto"
    """Precision of activations and matmuls; auto is float32 on CPU and bfloat16 elsewhere."""
    attention: Implementation = "auto"
    """Attention implementation: auto, xla, or cudnn (NVIDIA GPUs)."""
    remat: RematPolicy = "none"
    """Activations kept for the backward pass, others are recomputed: none (all are kept), dots
    (matmul results), full (only the inputs of blocks), or by name: qkv, qkv_mlp, matmuls."""
    offload: OffloadPolicy = "none"
    """Named activations kept in host memory instead of being recomputed: none, qkv or qkv_mlp."""
    is_scanned: bool = True
    """Whether blocks run as one compiled loop rather than unrolled."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "DecoderConfig":
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads={self.kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide embed_dim={self.embed_dim}; "
                "change one of them, or give head_dim"
            )
        if self.positions == "rope" and self.head_size % 2:
            raise ValueError(f"head_dim={self.head_size} is odd; rotary positions rotate pairs")
        check_offload(self.remat, self.offload)
        if self.moe is not None:
            self._check_moe(self.moe)
        return self

    def _check_moe(self, moe: MoeConfig) -> None:
        if self.use_bias:
            raise ValueError(
                "use_bias=true, but the experts of moe have no biases; set it to false"
            )
        if moe.num_dense_layers >= self.num_layers:
            raise ValueError(
                f"moe.num_dense_layers={moe.num_dense_layers} of num_layers={self.num_layers} "
                "leaves no layer with experts; lower it, or leave moe out"
            )

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.head_dim or self.embed_dim // self.num_heads

    @property
    def mlp_size(self) -> int:
        """Width of a dense feed-forward layer."""
        return self.mlp_dim or 4 * self.embed_dim

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Layers of each stack of equal blocks: with experts, the dense ones come first."""
        dense = self.num_dense_layers
        return (dense, self.num_layers - dense) if dense else (self.num_layers,)

    @property
    def num_dense_layers(self) -> int:
        """Number of first layers in a stack of their own, dense ones before mixtures."""
        return 0 if self.moe is None else self.moe.num_dense_layers

    def compute_dtype(self, platform: str) -> jnp.dtype:
        """The dtype of activations on a platform (cpu, gpu, tpu)."""
        if self.dtype == "auto":
            # Without matrix units for it, bf16 is 2.5 times slower than float32 on a CPU.
            return jnp.dtype("float32" if platform == "cpu" else "bfloat16")
        return jnp.dtype(self.dtype)

    @property
    def hidden_init(self) -> Initializer:
        """How hidden matrices start."""
        return normal(self.init_std) if self.init_std else fan_in_normal()

    @property
    def branch_init(self) -> Initializer:
        """How projections back into the residual stream start."""
        if self.residual_init == "zero":
            return zeros
        scale = (2 * self.num_layers) ** -0.5 if self.residual_init == "depth_scaled" else 1.0
        return normal(self.init_std * scale) if self.init_std else fan_in_normal(scale)

    def padded_vocab_size(self, tokenizer_size: int) -> int:
        """Rows of the embedding. ValueError if fewer than the tokenizer has tokens."""
        if self.vocab_size is None:
            return -(-tokenizer_size // 64) * 64  # whole tiles, and every usual mesh divides it
        if self.vocab_size < tokenizer_size:
            raise ValueError(
                f"model.vocab_size is {self.vocab_size}, but the tokenizer has {tokenizer_size} "
                "tokens; raise it or leave it null"
            )
        return self.vocab_size

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError, naming the config key, if the model has no position for `length` tokens."""
        if self.positions == "learned" and length > self.max_length:
            raise ValueError(
                f"{key} is {length}, but the model has {self.max_length} learned positions; "
                "raise model.max_length or use model.positions=rope"
            )

    def build(self, key: jax.Array, vocab_size: int) -> "Decoder":
        """A new decoder over `vocab_size` tokens; call under eval_shape for its shapes only."""
        return Decoder(key, self, vocab_size)

    def active_size(self, spec: WeightSpec) -> int:
        """How many numbers of a weight one token is multiplied by."""
        size = math.prod(spec.shape)
        if self.moe is not None and "experts" in spec.axes:
            return size // self.moe.num_experts * self.moe.top_k
        return size

    def flops_per_token(self, num_matmul_params: int, length: int) -> float:
        """Forward and backward FLOPs a token: 6 a matmul parameter, 12 L N H T for attention.

        num_matmul_params: the sum of `active_size`, so that only chosen experts count.

        The convention of PaLM (arXiv:2204.02311, appendix B): the causal half of attention is
        not subtracted and recomputation is not counted.
        """
        attention = 12 * self.num_layers * self.num_heads * self.head_size * length
        return 6.0 * num_matmul_params + attention


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), or a mixture of experts in place of mlp."""

    def __init__(self, key: jax.Array, config: DecoderConfig, moe: MoeConfig | None):
        norm_key, attention_key, mlp_key = jax.random.split(key, 3)
        self.dropout = config.dropout
        self.attention_norm = _norm(norm_key, config)
        self.attention = Attention(
            attention_key,
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            head_dim=config.head_size,
            rope_theta=config.rope_theta if config.positions == "rope" else None,
            qk_norm_epsilon=config.norm_epsilon if config.has_qk_norm else None,
            use_bias=config.use_bias,
            implementation=config.attention,
            init=config.hidden_init,
            output_init=config.branch_init,
        )
        self.mlp_norm = _norm(norm_key, config)
        self.mlp = None if moe is not None else _mlp(mlp_key, config)
        self.moe = None if moe is None else _moe(mlp_key, config, moe)

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        cache: Cache | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, LayerResults]:
        """(B, T, D) -> (B, T, D), and this layer's cache and router's sums."""
        branch_BTD, cache = self.attention(
            constrain(layout, self.attention_norm(x_BTD), "batch", "length", "act_embed"),
            positions_BT=positions_BT,
            segment_ids_BT=segment_ids_BT,
            cache=cache,
            layout=layout,
        )
        x_BTD = x_BTD + dropout(
            kept(branch_BTD, "branch"), self.dropout, fold_in(keys_B, 0), layout=layout
        )
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")
        h_BTD = constrain(layout, self.mlp_norm(x_BTD), "batch", "length", "act_embed")
        branch_BTD, router = self._feed_forward(h_BTD, layout)
        x_BTD = x_BTD + dropout(branch_BTD, self.dropout, fold_in(keys_B, 1), layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")
        return x_BTD, (cache, router)

    def _feed_forward(
        self, h_BTD: jax.Array, layout: Layout | None
    ) -> tuple[jax.Array, RouterSums | None]:
        if self.moe is not None:
            return self.moe(h_BTD, layout=layout)
        assert self.mlp is not None
        return self.mlp(h_BTD, layout=layout), None


class Decoder(nnx.Module):
    """Token ids -> logits of the next token."""

    def __init__(self, key: jax.Array, config: DecoderConfig, vocab_size: int):
        embed_key, position_key, stack_key, norm_key, out_key = jax.random.split(key, 5)
        self.config = config
        self.vocab_size = vocab_size
        embed_dim, std = config.embed_dim, config.embed_init_std
        self.embed = Embedding(
            embed_key, axis="vocab", rows=vocab_size, embed_dim=embed_dim, std=std
        )
        self.position_embed = (
            Embedding(
                position_key,
                axis="positions",
                rows=config.max_length,
                embed_dim=embed_dim,
                std=std,
            )
            if config.positions == "learned"
            else None
        )
        self.dense_blocks = (
            _stack(jax.random.fold_in(stack_key, 0), config, None, config.num_dense_layers)
            if config.num_dense_layers
            else None
        )
        self.blocks = _stack(
            stack_key, config, config.moe, config.num_layers - config.num_dense_layers
        )
        self.norm = _norm(norm_key, config)
        self.out = (
            None
            if config.is_tied
            else Linear(
                out_key,
                inputs={"embed": embed_dim},
                outputs={"vocab": vocab_size},
                use_bias=False,
                init=zeros if config.output_init == "zero" else config.hidden_init,
                role="output",
            )
        )

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> jax.Array:
        """(B, T) ids -> (B, T, V) logits in the compute dtype.

        segment_ids_BT: packed documents, which never see each other; None is one document a row.
        positions_BT: default 0..T-1. keys_B: one random key an example for dropout; None is off.
        """
        x_BTD, _ = self.hidden(
            tokens_BT,
            segment_ids_BT=segment_ids_BT,
            positions_BT=positions_BT,
            keys_B=keys_B,
            layout=layout,
        )
        return self.logits(x_BTD, layout=layout)

    def hidden(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> tuple[jax.Array, RouterSums | None]:
        """As `__call__`, up to what `logits` takes: (B, T, D), and the routers' sums, if any.

        The sums are stacked over the layers with experts.
        """
        x_BTD, (_, router) = self._blocks(
            tokens_BT, segment_ids_BT, positions_BT, None, keys_B, layout
        )
        return x_BTD, router

    def forward(
        self,
        tokens_BT: jax.Array,
        *,
        segment_ids_BT: jax.Array | None = None,
        positions_BT: jax.Array | None = None,
        cache: Cache | None = None,
        keys_B: jax.Array | None = None,
        layout: Layout | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """As `__call__`, with a cache of every layer (L, B, S, K, H) read and extended."""
        x_BTD, (cache, _) = self._blocks(
            tokens_BT, segment_ids_BT, positions_BT, cache, keys_B, layout
        )
        return self.logits(x_BTD, layout=layout), cache

    def _blocks(
        self,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        positions_BT: jax.Array | None,
        cache: Cache | None,
        keys_B: jax.Array | None,
        layout: Layout | None,
    ) -> tuple[jax.Array, LayerResults]:
        """(B, T) ids -> (B, T, D) behind the last norm, the cache and the routers' sums."""
        if positions_BT is None:
            positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
        layout = None if layout is None else outside(layout)
        platform = jax.default_backend() if layout is None else layout.platform
        dtype = self.config.compute_dtype(platform)
        x_BTD = self.embed(tokens_BT, dtype=dtype, layout=layout)
        if self.position_embed is not None:
            x_BTD = x_BTD + self.position_embed(positions_BT, dtype=dtype, layout=layout)
        keys = fold_in(keys_B, self.config.num_layers)
        x_BTD = dropout(x_BTD, self.config.dropout, keys, layout=layout)
        x_BTD = constrain(layout, x_BTD, "batch", "residual_length", "act_embed")

        def body(
            block: Block, x_BTD: jax.Array, xs: tuple, rows: tuple, layout: Layout | None
        ) -> tuple[jax.Array, LayerResults]:
            (index, layer_cache), (positions_BT, segment_ids_BT, keys_B) = xs, rows
            return block(
                x_BTD,
                positions_BT=positions_BT,
                segment_ids_BT=segment_ids_BT,
                cache=layer_cache,
                keys_B=fold_in(keys_B, index),
                layout=layout,
            )

        def run(
            stack: Stack, x_BTD: jax.Array, first: int, cache: Cache | None
        ) -> tuple[jax.Array, LayerResults]:
            return stack(
                body,
                x_BTD,
                (jnp.arange(first, first + stack.num_layers), cache),
                rows=(positions_BT, segment_ids_BT, keys_B),
                layout=layout,
            )

        num_dense = self.config.num_dense_layers
        if self.dense_blocks is None:
            x_BTD, (cache, router) = run(self.blocks, x_BTD, 0, cache)
        else:
            dense_cache, moe_cache = (
                jax.tree.map(lambda c, part=part: c[part], cache)
                for part in (slice(num_dense), slice(num_dense, None))
            )
            x_BTD, (dense_cache, _) = run(self.dense_blocks, x_BTD, 0, dense_cache)
            x_BTD, (moe_cache, router) = run(self.blocks, x_BTD, num_dense, moe_cache)
            cache = jax.tree.map(lambda *parts: jnp.concatenate(parts), dense_cache, moe_cache)
        x_BTD = constrain(layout, self.norm(x_BTD), "batch", "length", "act_embed")
        return x_BTD, (cache, router)

    def logits(self, x_BTD: jax.Array, *, layout: Layout | None = None) -> jax.Array:
        """(B, T, D), as `hidden` gives it -> (B, T, V)."""
        layout = None if layout is None else outside(layout)
        logits_BTV = self.embed.attend(x_BTD) if self.out is None else self.out(x_BTD)
        cap = self.config.logit_soft_cap
        if cap is not None:
            logits_BTV = cap * jnp.tanh(logits_BTV / cap)
        return constrain(layout, logits_BTV, "batch", "length", "act_vocab")

    def rebalance(self, params: Nested, sums: RouterSums) -> Nested:
        """The weights after a step, with the routers' biases moved by the loads of its batch."""
        rate = None if self.config.moe is None else self.config.moe.bias_rate
        if not rate:
            return params

        def move(path: tuple, leaf: jax.Array) -> jax.Array:
            if [key.key for key in path] != ["blocks", "layers", "moe", "router", "bias"]:
                return leaf
            return rebalanced(leaf, sums.loads_E, rate=rate)

        return jax.tree.map_with_path(move, params)

    def empty_cache(self, batch_size: int, num_slots: int) -> Cache:
        """A cache of zeros for `batch_size` rows of up to `num_slots` tokens each."""
        config = self.config
        shape = (config.num_layers, batch_size, num_slots, config.kv_heads, config.head_size)
        zeros_LBSKH = jnp.zeros(shape, config.compute_dtype(jax.default_backend()))
        return Cache(zeros_LBSKH, zeros_LBSKH)


def _stack(key: jax.Array, config: DecoderConfig, moe: MoeConfig | None, num_layers: int) -> Stack:
    return Stack(
        key,
        lambda layer_key: Block(layer_key, config, moe),
        num_layers=num_layers,
        remat=config.remat,
        offload=config.offload,
        is_scanned=config.is_scanned,
    )


def _mlp(key: jax.Array, config: DecoderConfig) -> Mlp:
    return Mlp(
        key,
        embed_dim=config.embed_dim,
        mlp_dim=config.mlp_size,
        activation=config.activation,
        is_gated=config.is_gated,
        use_bias=config.use_bias,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def _moe(key: jax.Array, config: DecoderConfig, moe: MoeConfig) -> Moe:
    return moe.build(
        key,
        embed_dim=config.embed_dim,
        mlp_dim=config.mlp_size,
        activation=config.activation,
        is_gated=config.is_gated,
        init=config.hidden_init,
        output_init=config.branch_init,
    )


def _norm(key: jax.Array, config: DecoderConfig) -> Norm:
    return Norm(
        key,
        axis="embed",
        size=config.embed_dim,
        norm_type=config.norm,
        epsilon=config.norm_epsilon,
        use_bias=config.use_bias and config.norm == "layer",
    )
