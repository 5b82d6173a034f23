"""Training that starts from a published model's weights."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.checkpoints.start_head import StartHead
from jaxllm.hf.base import Rows
from jaxllm.hf.label_names import read_names
from jaxllm.hf.new_rows import with_new_rows
from jaxllm.hf.published import Published, abstract_module, open_published
from jaxllm.hf.tokenizer import find_tokenizer
from jaxllm.hf.weights import Convert, Progress, Stored, as_it_is, check, load
from jaxllm.models.other_head import has_same_head, is_of_head, shared_paths
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.package_paths import located

if TYPE_CHECKING:
    from jaxllm.data.model_tokenizer import ModelTokenizer


class HfStart(StartHead):
    """Start from the weights of a Hugging Face folder, or of a GGUF file.

    An encoder may have another head than the folder's, which is then new.
    """

    type: Literal["hf"] = "hf"
    """Kind of weights: a published model's."""
    path: str
    """The folder with config.json and safetensors, or the .gguf file; `package://NAME/FOLDER` is
    one of an installed package."""
    new_tokens: Literal["mean"] | None = None
    """How the rows of the vocabulary begin that model.vocab_size has more than the folder: as the
    mean of its rows; null refuses them."""

    def model(self) -> dict[str, Any]:
        """The model section that its network has. ValueError for one that is not known here."""
        return self._open().config.model_dump(mode="json")

    def class_names(self) -> tuple[str, ...] | None:
        """What the classes of its head are called, in order; None where nobody named them."""
        published = self._open()
        count = getattr(published.config, "num_labels", None)
        return read_names(published.raw, num_labels=count)

    def check(self, config: Any, *, specs: Nested) -> None:
        """ValueError, as `weights`, before anything is read."""
        published = self._open()
        start = self._shared(published, config, specs)
        check(
            self._tensors(published, config, start),
            folder=published.path,
            specs=start.specs,
            rows=start.rows,
            ignored=start.ignored,
        )

    def new_weights(self, config: Any, *, specs: Nested) -> list[str]:
        """Paths of the weights that the model has in its head, and the folder has not."""
        shared = flatten_dict(self._shared(self._open(), config, specs).specs)
        return [".".join(path) for path in flatten_dict(specs) if path not in shared]

    def weights(
        self,
        config: Any,
        *,
        specs: Nested,
        shardings: Nested,
        on_progress: Progress | None = None,
        convert: Convert = as_it_is,
    ) -> Nested:
        """Its weights for the network of `config`, in float32, each device its part.

        convert: what is made of each, of its dotted path and itself, before the next is read.
        Those of `new_weights` are not among them. ValueError that lists what else the two do not
        have in common.
        """
        published = self._open()
        start = self._shared(published, config, specs)
        kept = flatten_dict(start.specs)
        placed = {path: leaf for path, leaf in flatten_dict(shardings).items() if path in kept}
        return load(
            self._tensors(published, config, start),
            folder=published.path,
            specs=start.specs,
            rows=start.rows,
            ignored=start.ignored,
            shardings=unflatten_dict(placed),
            on_progress=on_progress,
            convert=convert,
        )

    def tokenizer(self) -> "ModelTokenizer | None":
        """Its tokenizer, which a run has if it names no other; None where it has none."""
        vocab_size = getattr(self._open().config, "vocab_size", None)
        try:
            return find_tokenizer(located(self.path), vocab_size=vocab_size)
        except ValueError as error:
            raise ValueError(f"init_from.path: {error}") from error

    def _tensors(self, published: Published, config: Any, start: "_Shared") -> Mapping[str, Stored]:
        """The folder's, with new rows of the vocabulary. ValueError for such not asked for."""
        there, wanted = (
            getattr(one, "vocab_size", None) or 0 for one in (published.config, config)
        )
        if self.new_tokens is None and wanted <= there:
            return published.tensors
        if wanted <= there:
            raise ValueError(
                f"init_from.new_tokens={self.new_tokens} is given, but {self.path} has {there} "
                f"rows of the vocabulary, and the model has {wanted}; set model.vocab_size to "
                "more, or leave new_tokens out"
            )
        if self.new_tokens is None:
            raise ValueError(
                f"model.vocab_size={wanted}, but {self.path} has {there} rows of the vocabulary; "
                "leave model.vocab_size out, or set init_from.new_tokens=mean for new tokens"
            )
        return with_new_rows(published.tensors, specs=start.specs, rows=start.rows)

    def _shared(self, published: Published, config: Any, specs: Nested) -> "_Shared":
        return _shared(published, config, specs, has_new_head=self.has_new_head)

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


def _shared(published: Published, config: Any, specs: Nested, *, has_new_head: bool) -> _Shared:
    """All weights; of an encoder with another head than the folder's, those but for its own head.

    Names are then as in the folder: some families' depend on the head.
    """
    family, theirs = published.family, published.config
    if has_same_head(config, theirs) and not has_new_head:
        return _Shared(specs, family.rows(config), tuple(family.ignored(config)))
    there, ours = flatten_dict(spec_dict(abstract_module(theirs))), flatten_dict(specs)
    kept = {path: ours[path] for path in ours if path in shared_paths(ours, there)}
    rows = family.rows(theirs)
    names = {row.ours: row.theirs for row in rows}
    unused = [
        re.escape(names[".".join(path)]) for path in there if path not in kept and is_of_head(path)
    ]
    return _Shared(unflatten_dict(kept), rows, (*family.ignored(theirs), *unused))
