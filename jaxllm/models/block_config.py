"""What the blocks of any transformer can be."""

import math
from typing import Literal

import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jaxllm.kernels.attention import Implementation
from jaxllm.nn.attention import AttentionBias, QkNorm, Scores
from jaxllm.nn.mlp import Activation
from jaxllm.nn.norm import NormType
from jaxllm.nn.param import Initializer, fan_in_normal, normal, zeros
from jaxllm.nn.remat import OffloadPolicy, RematPolicy, check_offload
from jaxllm.parallel.axes import WeightSpec
from jaxllm.schema import Config

Dtype = Literal["auto", "float32", "bfloat16"]
NormPosition = Literal["pre", "post", "branch", "both"]


def padded_vocab_size(given: int | None, num_ids: int, *, key: str = "model.vocab_size") -> int:
    """Rows of an embedding. ValueError, naming the key, if fewer are given than ids are used.

    num_ids: of the tokens that data and objective use, which may be more than a tokenizer has.
    """
    if given is None:
        return -(-num_ids // 64) * 64  # whole tiles, and every usual mesh divides it
    if given < num_ids:
        raise ValueError(
            f"{key} is {given}, but the data and the objective use {num_ids} ids; "
            "where published weights set it (init_from, an import) use the tokenizer of this "
            "model, or raise it with init_from.new_tokens=mean; else raise it or leave it null"
        )
    return given


class BlockConfig(Config):
    """Attention and feed-forward layers, and how they are joined, started and computed."""

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
    """Normalisation of attention, feed-forward and output: rms or layer."""
    norm_epsilon: PositiveFloat = 1e-6
    """Added to the variance in every norm."""
    norm_position: NormPosition = "pre"
    """Where a block normalises: its branches' inputs (pre), their results (branch), both, or the
    residual stream behind each (post)."""
    has_centered_scale: bool = False
    """Whether the scales of norms are kept minus one, so that decay pulls them to one."""
    qk_norm: QkNorm = "none"
    """RMS norm of queries and keys: none, each head by itself, or the projection of all heads."""
    query_scale: PositiveFloat | None = None
    """Factor of attention scores; null is 1 / sqrt(head_dim)."""
    attention_soft_cap: PositiveFloat | None = None
    """Attention scores become cap * tanh(scores / cap); null is off."""
    is_gated: bool = True
    """Whether the feed-forward layer has a gate (SwiGLU, GeGLU)."""
    activation: Activation = "silu"
    """Nonlinearity of the feed-forward layer: silu, gelu, gelu_exact, gelu_sigmoid, relu or
    relu_squared."""
    use_bias: bool = False
    """Whether linear layers and layer norms have biases."""
    attention_bias: AttentionBias | None = None
    """Projections of attention with biases: none, qkv, out or all; null is as use_bias says."""
    dropout: NonNegativeFloat = Field(0.0, lt=1.0)
    """Probability of zeroing an element of each residual branch and of the embedding."""
    init_std: PositiveFloat | None = None
    """Standard deviation of hidden matrices at the start; null is 1 / sqrt(fan-in)."""
    embed_init_std: PositiveFloat = 0.02
    """Standard deviation of the embeddings at the start."""
    residual_init: Literal["same", "depth_scaled", "zero"] = "same"
    """Start of projections back into the residual stream: same, / sqrt(2 num_layers), or zero."""
    dtype: Dtype = "auto"
    """Precision of activations and matmuls; auto is float32 on CPU and bfloat16 elsewhere."""
    attention: Implementation = "auto"
    """Attention implementation: auto, xla, splash (TPU) or cudnn (NVIDIA GPUs)."""
    remat: RematPolicy = "none"
    """Activations kept for the backward pass, others are recomputed: none (all are kept), dots
    (matmul results), full (only the inputs of blocks), or by name: attention,
    attention_value, qkv, qkv_mlp, matmuls."""
    offload: OffloadPolicy = "none"
    """Named activations kept in host memory instead of being recomputed: none, qkv or qkv_mlp."""
    is_scanned: bool = True
    """Whether blocks run as one compiled loop rather than unrolled."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "BlockConfig":
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads={self.kv_heads} does not divide num_heads={self.num_heads}"
            )
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide embed_dim={self.embed_dim}; "
                "change one of them, or give head_dim"
            )
        check_offload(self.remat, self.offload)
        return self

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Layers of each stack of equal blocks."""
        return (self.num_layers,)

    def active_size(self, spec: WeightSpec) -> int:
        """How many numbers of a weight one token meets."""
        return math.prod(spec.shape)

    def flops_per_token(self, num_matmul_params: int, length: int) -> float:
        """Forward and backward FLOPs a token: 6 a matmul parameter, 12 L N H T for attention.

        The convention of PaLM (arXiv:2204.02311, appendix B); recomputation is not counted.
        """
        attention = 12 * sum(self.stack_depths) * length * self.num_heads * self.head_size
        return 6.0 * num_matmul_params + attention

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
    def projection_bias(self) -> AttentionBias:
        """Which projections of attention have biases."""
        return self.attention_bias or ("all" if self.use_bias else "none")

    @property
    def scores(self) -> Scores:
        """How attention scores are made, as far as every kind of transformer has it."""
        return Scores(
            soft_cap=self.attention_soft_cap,
            scale=self.query_scale,
            implementation=self.attention,
        )

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
