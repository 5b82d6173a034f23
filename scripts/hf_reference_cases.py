"""All the cases of hf_reference.py, by name."""

from hf_reference_decoders import DECODERS
from hf_reference_encoders import ENCODERS, LOSSES

CASES = DECODERS | ENCODERS

__all__ = ["CASES", "LOSSES"]
