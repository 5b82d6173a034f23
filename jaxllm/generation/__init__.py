"""Text from a model: sampling and decoding with a key/value cache."""

from jaxllm.generation.beam import BeamSearch
from jaxllm.generation.decode import Generator
from jaxllm.generation.sampling import SampleConfig, Sampling
from jaxllm.generation.translate import Translator

__all__ = ["BeamSearch", "Generator", "SampleConfig", "Sampling", "Translator"]
