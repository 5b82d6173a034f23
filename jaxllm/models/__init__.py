"""Whole networks."""

from jaxllm.models.decoder import Decoder, DecoderConfig

__all__ = ["Decoder", "DecoderConfig"]
