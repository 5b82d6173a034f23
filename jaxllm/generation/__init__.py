"""Text from a model: sampling and decoding with a key/value cache."""

from jaxllm.generation.decode import Generator
from jaxllm.generation.sampling import SampleConfig, Sampling

__all__ = ["Generator", "SampleConfig", "Sampling"]
