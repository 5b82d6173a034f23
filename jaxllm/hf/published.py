"""A published model that is open: what its files say, none of its weights read yet."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.hf.base import Family
from jaxllm.containment import contained
from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.registry import family_of
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import FLOAT32, Progress, load
from jaxllm.nn.param import Nested

# What decoders call the projection to the vocabulary.
_OUTPUTS = {"lm_head.weight", "embed_out.weight"}


class Published(NamedTuple):
    """A published model, none of its weights read yet.

    path: its folder. raw: its config.json. config: that as ours. tensors: where its weights lie.
    """

    path: Path
    raw: dict[str, Any]
    family: Family
    config: Any
    tensors: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """What a load reads, in float32."""
        return 4 * sum(math.prod(entry.shape) for entry in self.tensors.values())


def open_published(path: Path) -> Published:
    """The model of a folder or a .gguf file. ValueError for what is none that is known here."""
    if path.suffix == ".gguf":
        opened = open_gguf(path)
        family = family_of(opened.config, name=str(path))
        config = family.read_config(opened.config, name=str(path))
        return Published(path, dict(opened.config), family, config, opened.tensors)
    raw, family = read_published(path)
    config = family.read_config(raw, name=str(path / "config.json"))
    entries = read_folder(path)
    names = family.present_names(entries)
    tensors = {names[name]: entry for name, entry in entries.items()}
    _check_copies(path, family, config, tensors)
    return Published(path, raw, family, config, tensors)


def _check_copies(path: Path, family: Family, config: Any, tensors: Mapping[str, Any]) -> None:
    """ValueError where a tied output is in the files again, and is another than the embedding."""
    table = next((row.theirs for row in family.rows(config) if row.ours == "embed.table"), None)
    if not getattr(config, "is_tied", False) or table is None or table not in tensors:
        return
    for name in _OUTPUTS & tensors.keys():
        first, second = tensors[table], tensors[name]
        if first.shape != second.shape or not np.array_equal(first.array(), second.array()):
            raise ValueError(
                f"{path}: config.json ties {name} to {table}, but the files have both and they "
                "differ; set tie_word_embeddings to false"
            )


def read_weights(
    published: Published,
    config: Any,
    *,
    specs: Nested,
    shardings: Nested | None,
    dtype: np.dtype = FLOAT32,
    on_progress: Progress | None = None,
) -> Nested:
    """Its weights for the network of `config`, as `weights.load` has them."""
    return load(
        published.tensors,
        folder=published.path,
        specs=specs,
        rows=published.family.rows(config),
        shardings=shardings,
        dtype=dtype,
        ignored=published.family.ignored(config),
        on_progress=on_progress,
    )


def read_published(folder: Path) -> tuple[dict[str, Any], Family]:
    """The config.json of a folder, and the family that it is of. ValueError if there is none."""
    path = contained(folder, "config.json")
    if not path.is_file():
        raise ValueError(f"{folder} is no model folder: it has no config.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} is a {type(raw).__name__} and no object")
    if raw.get("quantization_config"):
        raise ValueError(
            f"{path} says that the weights are quantised ("
            f"{raw['quantization_config'].get('quant_method', 'in some way')}), which is not read; "
            "get them in bfloat16 or float32"
        )
    return raw, family_of(raw, name=str(path))


def abstract_module(config: Any) -> Any:
    """The network of a config, its weights as shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = getattr(config, "vocab_size", None)
    return jax.eval_shape(lambda key: config.build(key, size), key)
