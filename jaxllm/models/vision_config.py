"""What an encoder of images can be: ViT and the images' half of CLIP."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import jax
from pydantic import PositiveFloat, PositiveInt, model_validator

from jaxllm.models.block_config import BlockConfig
from jaxllm.models.heads import check_labels
from jaxllm.nn.attention import Scores
from jaxllm.nn.mlp import Activation
from jaxllm.nn.norm import NormType

if TYPE_CHECKING:
    from jaxllm.models.vision import Vision

VisionHead = Literal["none", "pooler", "image"]


class VisionConfig(BlockConfig):
    """An encoder of images cut in patches (arXiv:2010.11929). The defaults are a small ViT."""

    type: Literal["vision"] = "vision"
    """Kind of network: an encoder of images."""
    image_size: PositiveInt = 224
    """Height and width of an image, in pixels, a multiple of patch_size."""
    patch_size: PositiveInt = 16
    """Height and width of a patch, in pixels."""
    num_channels: PositiveInt = 3
    """Numbers of a pixel."""
    has_patch_bias: bool = True
    """Whether the layer that patches are embedded by has a bias."""
    has_input_norm: bool = False
    """Whether the embedded patches are normalised."""
    norm: NormType = "layer"
    """Normalisation of attention, feed-forward and output: rms or layer."""
    norm_epsilon: PositiveFloat = 1e-12
    """Added to the variance in every norm."""
    is_gated: bool = False
    """Whether the feed-forward layer has a gate (SwiGLU, GeGLU)."""
    activation: Activation = "gelu_exact"
    """Nonlinearity of the feed-forward layer: silu, gelu, gelu_exact, gelu_sigmoid, relu or
    relu_squared."""
    use_bias: bool = True
    """Whether linear layers and layer norms have biases."""
    init_std: PositiveFloat | None = 0.02
    """Standard deviation of hidden matrices at the start; null is 1 / sqrt(fan-in)."""
    head: VisionHead = "none"
    """What is made of the states: none, one vector of each image (pooler), or scores of its
    classes (image)."""
    num_labels: PositiveInt | None = None
    """Number of classes, of the head image alone."""

    @model_validator(mode="after")
    def _patches_fit(self) -> "VisionConfig":
        check_labels(self.head, self.num_labels, labelled=("image",))
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide image_size={self.image_size}; "
                "change one of them"
            )
        return self

    @property
    def scores(self) -> Scores:
        """How attention scores are made."""
        return replace(super().scores, is_causal=False)

    @property
    def patch_dim(self) -> int:
        """Numbers of a patch."""
        return self.patch_size**2 * self.num_channels

    @property
    def num_positions(self) -> int:
        """Patches of an image, and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def matmul_size(self) -> int:
        """Weights that each patch is multiplied by."""
        of_attention = 2 * (self.num_heads + self.kv_heads) * self.head_size
        of_mlp = (3 if self.is_gated else 2) * self.mlp_size
        return self.embed_dim * (self.num_layers * (of_attention + of_mlp) + self.patch_dim)

    @property
    def vocab_size(self) -> int:
        """Images have no vocabulary: 0."""
        return 0

    def padded_vocab_size(self, num_ids: int) -> int:
        """0, whatever ids there are for other things."""
        return 0

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError unless a row is as long as an image: its patches and the class token."""
        if length != self.num_positions:
            raise ValueError(
                f"{key} is {length}, but an image of model.image_size={self.image_size} in patches "
                f"of model.patch_size={self.patch_size} has {self.num_positions} positions, with "
                f"that of the class token; set {key}={self.num_positions}"
            )

    def build(self, key: jax.Array, vocab_size: int = 0) -> "Vision":
        """A new encoder; call under eval_shape for its shapes only. vocab_size means nothing."""
        from jaxllm.models.vision import Vision  # it is built of what reads this config

        return Vision(key, self)
