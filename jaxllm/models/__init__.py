"""Whole networks."""

from typing import Annotated

from pydantic import Field

from jaxllm.models.decoder import Decoder
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.models.encoder import Encoder
from jaxllm.models.encoder_config import EncoderConfig
from jaxllm.models.encoder_decoder import EncoderDecoder
from jaxllm.models.encoder_decoder_config import EncoderDecoderConfig
from jaxllm.models.two_towers import TwoTowers
from jaxllm.models.two_towers_config import TwoTowersConfig
from jaxllm.models.vision import Vision
from jaxllm.models.vision_config import VisionConfig

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "ModelConfig",
    "TwoTowers",
    "TwoTowersConfig",
    "Vision",
    "VisionConfig",
    "with_vocabulary",
]

ModelConfig = Annotated[
    DecoderConfig | EncoderConfig | EncoderDecoderConfig | VisionConfig | TwoTowersConfig,
    Field(discriminator="type"),
]
"""The networks that are trained."""


def with_vocabulary(config: ModelConfig, size: int) -> ModelConfig:
    """The config with the rows of its embedding of tokens, if it has one."""
    if isinstance(config, VisionConfig):
        return config
    if isinstance(config, TwoTowersConfig):
        text = config.text.model_copy(update={"vocab_size": size})
        return config.model_copy(update={"text": text})
    return config.model_copy(update={"vocab_size": size})
