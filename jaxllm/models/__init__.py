"""Whole networks."""

from jaxllm.models.decoder import Decoder
from jaxllm.models.decoder_config import DecoderConfig

__all__ = ["Decoder", "DecoderConfig"]
