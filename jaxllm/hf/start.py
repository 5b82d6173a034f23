"""Training that starts from a published model's weights."""

import re
from typing import Any, Literal, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.hf.base import Rows
from jaxllm.hf.published import Published, abstract_module, open_published
from jaxllm.hf.weights import Progress, check, load
from jaxllm.models import DecoderConfig, EncoderConfig
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.package_paths import located
from jaxllm.schema import Config

_LABEL_HEAD = "label_head"
_HEADS = (_LABEL_HEAD, "pooler", "vocabulary_head")
"""The parts of an encoder that not every head has."""


class HfStart(Config):
    """Start from the weights of a Hugging Face folder, or of a GGUF file.

    An encoder may have another head than the folder's, which is then new.
    """

    type: Literal["hf"] = "hf"
    """Kind of weights: a published model's."""
    path: str
    """The folder with config.json and safetensors, or the .gguf file; `package://NAME/FOLDER` is
    one of an installed package."""

    def model(self) -> dict[str, Any]:
        """The model section that its network has. ValueError for one that is not known here."""
        config = self._open().config
        if not isinstance(config, DecoderConfig | EncoderConfig):
            raise ValueError(
                f"{self.path} is a {self._open().family.model_type}, of which no run is made; give "
                "a decoder or an encoder of text"
            )
        return config.model_dump(mode="json")

    def check(self, config: Any, *, specs: Nested) -> None:
        """ValueError, as `weights`, before anything is read."""
        published = self._open()
        start = _shared(published, config, specs)
        check(
            published.tensors,
            folder=published.path,
            specs=start.specs,
            rows=start.rows,
            ignored=start.ignored,
        )

    def new_weights(self, config: Any, *, specs: Nested) -> list[str]:
        """Paths of the weights that the model has in its head, and the folder has not."""
        shared = flatten_dict(_shared(self._open(), config, specs).specs)
        return [".".join(path) for path in flatten_dict(specs) if path not in shared]

    def weights(
        self, config: Any, *, specs: Nested, shardings: Nested, on_progress: Progress | None = None
    ) -> Nested:
        """Its weights for the network of `config`, in float32, each device its part.

        Those of `new_weights` are not among them. ValueError that lists what else the two do not
        have in common.
        """
        published = self._open()
        start = _shared(published, config, specs)
        kept = flatten_dict(start.specs)
        placed = {path: leaf for path, leaf in flatten_dict(shardings).items() if path in kept}
        return load(
            published.tensors,
            folder=published.path,
            specs=start.specs,
            rows=start.rows,
            ignored=start.ignored,
            shardings=unflatten_dict(placed),
            on_progress=on_progress,
        )

    def _open(self) -> Published:
        try:
            return open_published(located(self.path))
        except ValueError as error:
            raise ValueError(f"init_from.path: {error}") from error


class _Shared(NamedTuple):
    """What the network of a run takes from a folder: weights, their names there, and the rest."""

    specs: Nested
    rows: Rows
    ignored: tuple[str, ...]


def _shared(published: Published, config: Any, specs: Nested) -> _Shared:
    """All weights; of an encoder with another head than the folder's, those but for its own head.

    Names are then as in the folder: some families' depend on the head.
    """
    family, theirs = published.family, published.config
    if not isinstance(config, EncoderConfig) or not isinstance(theirs, EncoderConfig):
        return _Shared(specs, family.rows(config), tuple(family.ignored(config)))
    if (config.head, config.num_labels) == (theirs.head, theirs.num_labels):
        return _Shared(specs, family.rows(config), tuple(family.ignored(config)))
    there = flatten_dict(spec_dict(abstract_module(theirs)))
    is_of_labels = {path for path in flatten_dict(specs) if path[0] == _LABEL_HEAD}
    kept = {
        path: spec
        for path, spec in flatten_dict(specs).items()
        # A head of other classes is another head, also where it has the same size.
        if path not in is_of_labels and (path in there or path[0] not in _HEADS)
    }
    rows = family.rows(theirs)
    names = {row.ours: row.theirs for row in rows}
    unused = [
        re.escape(names[".".join(path)]) for path in there if path not in kept and path[0] in _HEADS
    ]
    return _Shared(unflatten_dict(kept), rows, (*family.ignored(theirs), *unused))
