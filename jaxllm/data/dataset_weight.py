"""How much of a mixture each dataset is."""

from pydantic import Field

from jaxllm.schema import Config


class Weighted(Config):
    """A dataset of a mixture."""

    weight: float = Field(default=1.0, ge=0)
    """Share of the training rows, relative to the other datasets; 0 to validate only."""
