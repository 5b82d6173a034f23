"""Adapters in the format of PEFT: adapter_config.json and adapter_model.safetensors.

Its tensors are `base_model.model.NAME.lora_A.weight` (rank, inputs), `.lora_B.weight` (outputs,
rank) and, with magnitudes, `.lora_magnitude_vector` (outputs), where NAME is that of their layer.
Where one layer of theirs is several of ours, as one for queries, keys and values, the factors stand
side by side: A one below the other, B in blocks, with the rank of all together.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm.hf.base import Family
from jaxllm.hf.model import DTYPES
from jaxllm.hf.peft_config import module_of, rank_patterns, target_modules, task
from jaxllm.hf.peft_experts import (
    ExpertParameter,
    Theirs,
    expert_parameters,
    expert_tensors,
    is_of_expert,
    parameters_by_name,
)
from jaxllm.hf.published import abstract_module
from jaxllm.hf.tensor_writer import Tensor, write_file
from jaxllm.hf.view import Factors
from jaxllm.hf.weights import rows_of, tensors, theirs_of
from jaxllm.models import EncoderConfig, EncoderDecoderConfig
from jaxllm.nn.adapters import LoraConfig, is_adapter, without_adapters
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.parallel.axes import WeightSpec

_HEAD = "label_head"
_PREFIX = "base_model.model."
# PEFT looks for modules of the network that transformers makes of a folder. transformers 5 has
# other names there than on disk for these.
_LOADED_NAMES = {
    "vit": (
        ("encoder.layer.", "layers."),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ),
    "mixtral": (("block_sparse_moe.", "mlp."),),
}


class _Part(NamedTuple):
    """A layer of ours, or one of a stack, in a layer of theirs.

    numbers: of the layer in its stack. factors: how a product lies there. is_adapted: whether it
    has an adapter.
    """

    path: str
    numbers: tuple[int, ...]
    factors: Factors
    is_adapted: bool


def write_adapter(
    folder: Path,
    config: Any,
    params: Nested,
    *,
    adapter: LoraConfig,
    family: Family,
    trained: Nested,
    base: str,
    dtype: str = "float32",
) -> None:
    """Write what was learned beside a published model's weights.

    params: all weights, those of adapters among them. trained: those that were trained, in the
    same structure. base: where the model itself is. ValueError for a layer that theirs has in
    another form than a matrix, weights that PEFT has no form for, and a dtype that is not known.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; take {', '.join(DTYPES)}")
    specs, rows = spec_dict(abstract_module(config)), family.rows(config)
    flat, on_disk = _flat(params), theirs_of(specs, rows_of(specs, rows))
    theirs = [(_loaded(name, family), shape, parts) for name, shape, parts in on_disk]
    experts = expert_parameters(theirs, flat)
    theirs = [one for one in theirs if not any(is_of_expert(path) for path, _, _ in one[2])]
    layers = dict(_layers(theirs, _flat(specs), flat))
    named = parameters_by_name(family.model_type, layers, has_magnitude=adapter.has_magnitude)
    parameters = sorted({*(one.name for one in experts), *(f"{name}.weight" for name in named)})
    own_paths = {path for path in _flat(trained) if not is_adapter(path)}
    modules = _modules(theirs, own_paths)
    _check(config, own_paths, modules=modules, layers=layers)
    whole = [
        one._replace(name=_loaded(one.name, family))
        for one in tensors(without_adapters(params), specs=specs, rows=rows)
    ]
    own = tuple(f"{module}." for module in modules)
    found = [one._replace(name=_PREFIX + one.name) for one in whole if one.name.startswith(own)]
    for name, parts in layers.items():
        found += _tensors(f"{_PREFIX}{name}", parts, flat, adapter=adapter)
    found += expert_tensors(experts, flat, prefix=_PREFIX)
    raw = {
        "peft_type": "LORA",
        "task_type": task(family.write_config(config)["architectures"][0]),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": any(parts[0].factors.is_inputs_first for parts in layers.values()),
        # PEFT has none beside parameters, and for what is learned it does not matter any more.
        "lora_dropout": 0.0 if parameters else adapter.dropout,
        "use_rslora": adapter.is_rank_stabilised,
        "use_dora": adapter.has_magnitude,
        "modules_to_save": modules or None,
        "target_modules": target_modules(layers.keys() - named, [name for name, _, _ in theirs]),
        "target_parameters": parameters or None,
        **rank_patterns(_ranks(layers, experts, adapter.rank, named=named), adapter),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "adapter_model.safetensors", sorted(found), DTYPES[dtype])
    text = json.dumps(raw, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _check(
    config: Any, trained: set[str], *, modules: Iterable[str], layers: Iterable[str]
) -> None:
    """ValueError for weights trained beside the adapters that PEFT would not put back.

    It saves whole modules, of which none has an adapter too, and each by itself.
    """
    both = [name for name in layers if f"{name}.".startswith(tuple(f"{one}." for one in modules))]
    if both:
        raise ValueError(
            f"{', '.join(sorted(both))}: PEFT has low-rank adapters beside a module, or saves the "
            "whole module, but not both; export the whole model, without --adapter"
        )
    experts = sorted(filter(is_of_expert, trained))
    if experts:
        raise ValueError(
            f"{', '.join(experts)}: PEFT saves whole modules, and experts' matrices are none; "
            "export the whole model, without --adapter"
        )
    if "embed.table" in trained and _has_shared_embedding(config):
        raise ValueError(
            "embed.table was trained (adapter.also_trained), which other parts of the network "
            "share; PEFT would change one of them alone. Export the whole model, without --adapter"
        )


def _has_shared_embedding(config: Any) -> bool:
    """Whether the embedding of tokens is also an output projection, or another embedding."""
    if isinstance(config, EncoderConfig):
        return config.head == "masked_lm"
    return isinstance(config, EncoderDecoderConfig) or getattr(config, "is_tied", False)


def _ranks(
    layers: Mapping[str, list[_Part]],
    experts: Iterable[ExpertParameter],
    rank: int,
    *,
    named: Collection[str],
) -> dict[str, int]:
    """The rank of all adapters of each module or parameter of theirs, of `rank` each."""
    of_modules = {
        f"{name}.weight" if name in named else name: rank * sum(part.is_adapted for part in parts)
        for name, parts in layers.items()
    }
    return of_modules | {one.name: rank * len(one.adapted) for one in experts}


def _loaded(name: str, family: Family) -> str:
    """The name of a tensor in the network that is made of a folder."""
    for old, new in _LOADED_NAMES.get(family.model_type, ()):
        name = name.replace(old, new)
    return name


def _flat(tree: Nested) -> dict[str, Any]:
    return {
        ".".join(str(key.key) for key in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _layers(
    theirs: Theirs, specs: Mapping[str, WeightSpec], flat: Mapping[str, Any]
) -> Iterator[tuple[str, list[_Part]]]:
    """(name of a layer of theirs, its parts) where any of them has an adapter."""
    for name, _, parts in theirs:
        adapted = [f"{path.removesuffix('.kernel')}.lora.a" in flat for path, _, _ in parts]
        if not any(adapted):
            continue
        try:
            yield (
                module_of(name),
                [
                    _Part(path, numbers, seen.factors(len(specs[path].input_dims)), is_adapted)
                    for (path, numbers, seen), is_adapted in zip(parts, adapted, strict=True)
                ],
            )
        except ValueError as error:
            raise ValueError(f"{name} has no adapter in PEFT's format: {error}") from None


def _tensors(
    name: str, parts: list[_Part], flat: Mapping[str, Any], *, adapter: LoraConfig
) -> list[Tensor]:
    """The tensors of one layer of theirs."""
    layers = [part.path.removesuffix(".kernel") for part in parts]
    adapted = [(part, layer) for part, layer in zip(parts, layers, strict=True) if part.is_adapted]
    rank = adapter.rank * len(adapted)
    part, layer = adapted[0]

    def of(path: str, part: _Part) -> np.ndarray:
        return np.asarray(flat[path][part.numbers], np.float32)

    num_inputs = part.factors.down.shape(of(f"{layer}.lora.a", part).shape)[1]
    num_outputs = part.factors.up.shape(of(f"{layer}.lora.b", part).shape)[0]

    def down() -> np.ndarray:
        theirs = np.zeros((rank, num_inputs), np.float32)
        for number, (part, layer) in enumerate(adapted):
            rows = slice(number * adapter.rank, (number + 1) * adapter.rank)
            part.factors.down.put(theirs[rows], of(f"{layer}.lora.a", part))
        return theirs

    def up() -> np.ndarray:
        theirs = np.zeros((num_outputs, rank), np.float32)
        for number, (part, layer) in enumerate(adapted):
            columns = slice(number * adapter.rank, (number + 1) * adapter.rank)
            part.factors.up.put(theirs[:, columns], of(f"{layer}.lora.b", part))
        return theirs

    def lengths() -> np.ndarray:
        theirs = np.full((num_outputs,), np.nan, np.float32)
        for part, layer in zip(parts, layers, strict=True):
            kernel = of(part.path, part)
            inputs = tuple(range(kernel.ndim - len(part.factors.results.ours)))
            wanted = np.sqrt(np.sum(np.square(kernel), axis=inputs))
            if part.is_adapted:
                wanted = wanted + of(f"{layer}.lora.magnitude", part)
            part.factors.results.put(theirs, wanted)
        return theirs

    found = [
        Tensor(f"{name}.lora_A.weight", (rank, num_inputs), down),
        Tensor(f"{name}.lora_B.weight", (num_outputs, rank), up),
    ]
    if adapter.has_magnitude:
        found.append(Tensor(f"{name}.lora_magnitude_vector", (num_outputs,), lengths))
    return found


def _modules(theirs: Theirs, trained: set[str]) -> list[str]:
    """The modules of theirs with weights that were trained themselves, and the head of classes.

    PEFT looks for that head whenever a model has it.
    """
    chosen, heads = set(), set()
    for name, _, parts in theirs:
        paths = {path for path, _, _ in parts}
        if any(path.startswith(_HEAD) for path in paths):
            heads.add(name.partition(".")[0])
        elif paths & trained:
            chosen.add(module_of(name))
    return sorted(heads | {name for name in chosen if name.partition(".")[0] not in heads})
