"""A published model that is open: what its files say, none of its weights read yet."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.containment import contained
from jaxllm.hf.base import Family
from jaxllm.hf.block_scales import KEY, read_block_size, with_scales
from jaxllm.hf.gguf import open_gguf
from jaxllm.hf.registry import family_of
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.weights import FLOAT32, Progress, Stored, load
from jaxllm.nn.param import Nested

# What a config.json says beside the network: ids that generation and batches go by.
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
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
    tensors: Mapping[str, Stored]


def open_published(path: Path) -> Published:
    """The model of a folder or a .gguf file. ValueError for what is none that is known here."""
    if path.suffix == ".gguf":
        opened = open_gguf(path)
        family = family_of(opened.config, name=str(path))
        config = family.read_config(opened.config, name=str(path))
        return Published(path, dict(opened.config), family, config, opened.tensors)
    raw, family = read_published(path)
    name = str(path / "config.json")
    block = read_block_size(raw, name=name)
    config = family.read_config({k: v for k, v in raw.items() if k != KEY}, name=name)
    entries = read_folder(path)
    names = family.present_names(entries)
    renamed = {names[name]: entry for name, entry in entries.items()}
    tensors: Mapping[str, Stored] = renamed if block is None else with_scales(renamed, block)
    _check_copies(path, family, config, tensors)
    return Published(path, raw, family, config, tensors)


def _check_copies(path: Path, family: Family, config: Any, tensors: Mapping[str, Stored]) -> None:
    """ValueError where a tied output is in the files again, and is another than the embedding."""
    table = next((row.theirs for row in family.rows(config) if row.ours == "embed.table"), None)
    if not getattr(config, "is_tied", False) or table is None or table not in tensors:
        return
    for name in _OUTPUTS & tensors.keys():
        if not _are_equal(tensors[table], tensors[name]):
            raise ValueError(
                f"{path}: config.json ties {name} to {table}, but the files have both and they "
                "differ; set tie_word_embeddings to false"
            )


def _are_equal(first: Stored, second: Stored) -> bool:
    """Whether two matrices have the same numbers; a few rows at a time are in memory."""
    if first.shape != second.shape:
        return False
    if first.problem or second.problem:
        return True  # which is told with all other problems
    starts = range(0, first.shape[0], 4096)
    boxes = ((slice(start, start + 4096), slice(None)) for start in starts)
    return all(np.array_equal(first.read(box), second.read(box)) for box in boxes)


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
    return raw, family_of(raw, name=str(path))


def kept_keys(raw: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What an export keeps of a config.json that says nothing of the network.

    Ids, and of a model that tells classes apart what they are called and how they are chosen.
    """
    kept = {key: raw[key] for key in IDS if key in raw}
    count, names = getattr(config, "num_labels", None), raw.get("id2label")
    if count is None:
        return kept
    if isinstance(names, dict) and len(names) == count and all(str(n).isdigit() for n in names):
        numbers = {name: int(number) for number, name in names.items()}
        kept |= {"id2label": names, "label2id": raw.get("label2id") or numbers}
    if raw.get("problem_type") is not None:
        kept["problem_type"] = raw["problem_type"]
    return kept


def abstract_module(config: Any) -> Any:
    """The network of a config, its weights as shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = getattr(config, "vocab_size", None)
    return jax.eval_shape(lambda key: config.build(key, size), key)
