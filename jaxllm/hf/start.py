"""Training that starts from a published model's weights."""

from pathlib import Path
from typing import Any, Literal

from jaxllm.hf.published import open_published, read_weights
from jaxllm.hf.weights import Progress, check
from jaxllm.models import DecoderConfig, EncoderConfig
from jaxllm.nn.param import Nested
from jaxllm.schema import Config


class HfStart(Config):
    """Start from the weights of a Hugging Face folder, or of a GGUF file."""

    type: Literal["hf"] = "hf"
    """Kind of weights: a published model's."""
    path: str
    """The folder with config.json and safetensors, or the .gguf file."""

    def model(self) -> dict[str, Any]:
        """The model section that its network has. ValueError for one that is not known here."""
        published = open_published(Path(self.path).expanduser())
        config = published.config
        if not isinstance(config, DecoderConfig | EncoderConfig):
            raise ValueError(
                f"{self.path} is a {published.family.model_type}, of which no run is made; give a "
                "decoder or an encoder of text"
            )
        return config.model_dump(mode="json")

    def check(self, config: Any, *, specs: Nested) -> None:
        """ValueError, as `weights`, before anything is read."""
        published = open_published(Path(self.path).expanduser())
        check(
            published.tensors,
            folder=published.path,
            specs=specs,
            rows=published.family.rows(config),
            ignored=published.family.ignored(config),
        )

    def weights(
        self, config: Any, *, specs: Nested, shardings: Nested, on_progress: Progress | None = None
    ) -> Nested:
        """Its weights for the network of `config`, in float32, each device its part.

        ValueError that lists what the two do not have in common.
        """
        published = open_published(Path(self.path).expanduser())
        return read_weights(
            published, config, specs=specs, shardings=shardings, on_progress=on_progress
        )
