"""What a decoder-only transformer can be, with the options that GPT-2, Llama and Mixtral need."""

import math
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jaxllm.kernels.attention import Implementation
from jaxllm.nn.mlp import Activation
from jaxllm.nn.moe import MoeConfig
from jaxllm.nn.norm import NormType
from jaxllm.nn.param import Initializer, fan_in_normal, normal, zeros
from jaxllm.nn.remat import OffloadPolicy, RematPolicy, check_offload
from jaxllm.parallel.axes import WeightSpec
from jaxllm.schema import Config

if TYPE_CHECKING:
    from jaxllm.models.decoder import Decoder

Dtype = Literal["auto", "float32", "bfloat16"]


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
        from jaxllm.models.decoder import Decoder  # it is built of what reads this config

        return Decoder(key, self, vocab_size)

    def active_size(self, spec: WeightSpec) -> int:
        """How many numbers of a weight one token meets."""
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
