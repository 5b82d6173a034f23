"""What a pair of encoders of texts and images can be: CLIP."""

import math
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp
from pydantic import NonNegativeInt, PositiveInt, model_validator

from jaxllm.models.block_config import padded_vocab_size
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.models.vision_config import VisionConfig
from jaxllm.parallel.axes import WeightSpec
from jaxllm.schema import Config

if TYPE_CHECKING:
    from jaxllm.models.two_towers import TwoTowers


class TwoTowersConfig(Config):
    """Texts and images in one space (arXiv:2103.00020)."""

    type: Literal["two_towers"] = "two_towers"
    """Kind of network: two towers."""
    text: DecoderConfig = DecoderConfig(
        positions="learned",
        max_length=77,
        norm="layer",
        norm_epsilon=1e-5,
        is_gated=False,
        activation="gelu_sigmoid",
        use_bias=True,
        is_tied=True,
    )
    """The tower of texts: a decoder, of which the states are used."""
    vision: VisionConfig = VisionConfig(
        norm_epsilon=1e-5, activation="gelu_sigmoid", has_patch_bias=False, has_input_norm=True
    )
    """The tower of images."""
    projection_dim: PositiveInt = 256
    """Width of the space that both are projected to."""
    end_id: NonNegativeInt | None = None
    """Token whose first place in a text stands for it; null is the token with the highest id."""
    initial_log_scale: float = math.log(1 / 0.07)
    """Natural logarithm of the factor of similarities at the start."""

    @model_validator(mode="after")
    def _towers_end_in_states(self) -> "TwoTowersConfig":
        if not self.text.is_tied:
            raise ValueError(
                "text.is_tied=false, but the tower of texts needs no projection to the vocabulary; "
                "set it to true"
            )
        if self.vision.head != "none":
            raise ValueError(
                f"vision.head={self.vision.head}, but only the states of the tower are used; set "
                "it to none"
            )
        return self

    @property
    def vocab_size(self) -> int | None:
        """Rows of the texts' embedding; null is the tokenizer's size, rounded up."""
        return self.text.vocab_size

    def padded_vocab_size(self, num_ids: int) -> int:
        """Rows of the texts' embedding. ValueError if fewer than the ids that are used."""
        return padded_vocab_size(self.vocab_size, num_ids, key="model.text.vocab_size")

    def check_length(self, length: int, *, key: str) -> None:
        """ValueError, naming what is too long, if there is no position for `length` tokens."""
        self.text.check_length(length, key=key)

    @property
    def stack_depths(self) -> tuple[int, ...]:
        """Layers of each stack of equal blocks, of texts and of images."""
        return (*self.text.stack_depths, *self.vision.stack_depths)

    @property
    def num_layers(self) -> int:
        """Transformer blocks of both towers."""
        return sum(self.stack_depths)

    def compute_dtype(self, platform: str) -> jnp.dtype:
        """The dtype of the texts' activations on a platform (cpu, gpu, tpu)."""
        return self.text.compute_dtype(platform)

    def active_size(self, spec: WeightSpec) -> int:
        """How many numbers of a weight one token meets."""
        return self.text.active_size(spec)

    def flops_per_token(self, num_matmul_params: int, length: int) -> float:
        """Of a text of `length` tokens and its image, a token of the text; see `BlockConfig`.

        num_matmul_params: of both towers. The projections count as if made of each token.
        """
        of_image = self.vision.matmul_size
        patches = self.vision.num_positions
        image = patches * self.vision.flops_per_token(of_image, patches)
        text = self.text.flops_per_token(num_matmul_params - of_image, length)
        return text + image / length

    def build(self, key: jax.Array, vocab_size: int) -> "TwoTowers":
        """New towers over `vocab_size` tokens; call under eval_shape for their shapes only."""
        from jaxllm.models.two_towers import TwoTowers  # it is built of what reads this config

        return TwoTowers(key, self, vocab_size)
