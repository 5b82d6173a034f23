"""Whole networks."""

from typing import Annotated

from pydantic import Field

from jaxllm.models.decoder import Decoder
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.models.encoder import Encoder
from jaxllm.models.encoder_config import EncoderConfig

__all__ = ["Decoder", "DecoderConfig", "Encoder", "EncoderConfig", "ModelConfig"]

ModelConfig = Annotated[DecoderConfig | EncoderConfig, Field(discriminator="type")]
"""The networks that are trained."""
