"""Adapters of experts in the format of PEFT, for the networks that transformers 5 makes.

There the matrices of all experts of a layer are one parameter, (experts, outputs, inputs), and
those of gate and up stand in one, gate first. PEFT names such parameters as `target_parameters`,
and has for each `lora_A.weight` (experts x rank, inputs) and `lora_B.weight` (outputs, rank x
experts). Where gate and up are both adapted they stand side by side, as in `peft`: A one below the
other, B in blocks, with the rank of both together.

E experts, I inputs, O outputs, R rank.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.hf.tensor_writer import Tensor
from jaxllm.hf.view import View

# Names, shapes and parts of their tensors, as `weights.theirs_of` gives them.
Theirs = Sequence[tuple[str, tuple[int, ...], list[tuple[str, tuple[int, ...], View]]]]

# Of their parameters, our matrices in order.
_PARAMETERS = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
_EXPERTS = ".experts"

# Modules of these names PEFT takes for the experts of these families, as they were in transformers
# 4, wherever else they are: `_convert_peft_config_moe` of PEFT 0.21.
_TAKEN = dict.fromkeys(("qwen3_moe", "deepseek_v3"), ("gate_proj", "up_proj", "down_proj"))


class ExpertParameter(NamedTuple):
    """A parameter of theirs with an adapter.

    module: what has it. matrices: our paths, in the order of its outputs; adapted: those with an
    adapter. layer: the number of ours in the stack.
    """

    module: str
    parameter: str
    matrices: tuple[str, ...]
    adapted: tuple[str, ...]
    layer: int

    @property
    def name(self) -> str:
        """As patterns of ranks have it."""
        return f"{self.module}.{self.parameter}"


def is_of_expert(path: str) -> bool:
    """Whether one of our weights is a matrix of the experts that a router chooses."""
    return f"{_EXPERTS}." in path


def parameters_by_name(model_type: str, layers: Iterable[str], *, has_magnitude: bool) -> set[str]:
    """The layers whose weight PEFT finds as a parameter alone, and not as the module that has it.

    ValueError where they have learned lengths, which PEFT has for modules alone.
    """
    taken = _TAKEN.get(model_type, ())
    found = {name for name in layers if name.rpartition(".")[2] in taken}
    if found and has_magnitude:
        raise ValueError(
            f"{', '.join(sorted(found))}: PEFT takes modules of these names for experts in "
            f"{model_type}, and has no learned lengths (adapter.has_magnitude) for these; export "
            "the whole model, without --adapter"
        )
    return found


def expert_parameters(theirs: Theirs, flat: Mapping[str, Any]) -> list[ExpertParameter]:
    """Those of a network. theirs: its tensors on disk. flat: our weights by dotted path."""
    return sorted(set(_adapted(theirs, flat)))


def _adapted(theirs: Theirs, flat: Mapping[str, Any]) -> Iterator[ExpertParameter]:
    for tensor, _, parts in theirs:
        for path, numbers, _ in parts:
            if not is_of_expert(path):
                continue
            stack, _, matrix = path.removesuffix(".kernel").rpartition(".")
            parameter = next(name for name, of in _PARAMETERS.items() if matrix in of)
            matrices = tuple(f"{stack}.{name}" for name in _PARAMETERS[parameter])
            adapted = tuple(one for one in matrices if f"{one}.lora.a" in flat)
            if adapted:
                module = tensor.partition(f"{_EXPERTS}.")[0] + _EXPERTS
                yield ExpertParameter(module, parameter, matrices, adapted, numbers[0])


def expert_tensors(
    parameters: Sequence[ExpertParameter], flat: Mapping[str, Any], *, prefix: str
) -> Iterator[Tensor]:
    """A and B of each. prefix: of all names.

    PEFT wraps a module once for each of its parameters, the last one outermost.
    """
    outer = {one.module: one.parameter for one in sorted(parameters, key=_place)}
    for one in parameters:
        is_inner = outer[one.module] != one.parameter
        yield from _factors(one, f"{prefix}{one.module}{'.base_layer' * is_inner}", flat)


def _place(one: ExpertParameter) -> int:
    """Of a parameter in its module."""
    return list(_PARAMETERS).index(one.parameter)


def _factors(one: ExpertParameter, module: str, flat: Mapping[str, Any]) -> list[Tensor]:
    def of(matrix: str, factor: str) -> np.ndarray:
        return np.asarray(flat[f"{matrix}.lora.{factor}"][one.layer], np.float32)

    _, experts, inputs, rank = flat[f"{one.adapted[0]}.lora.a"].shape
    outputs = flat[f"{one.adapted[0]}.lora.b"].shape[-1]
    whole, total = rank * len(one.adapted), outputs * len(one.matrices)

    def down() -> np.ndarray:
        a_EIR = np.concatenate([of(matrix, "a") for matrix in one.adapted], axis=2)
        return a_EIR.transpose(0, 2, 1).reshape(experts * whole, inputs)

    def up() -> np.ndarray:
        b_ORE = np.zeros((total, whole, experts), np.float32)
        for number, matrix in enumerate(one.adapted):
            place = one.matrices.index(matrix)
            rows = slice(place * outputs, (place + 1) * outputs)
            columns = slice(number * rank, (number + 1) * rank)
            b_ORE[rows, columns] = of(matrix, "b").transpose(2, 1, 0)
        return b_ORE.reshape(total, whole * experts)

    return [
        Tensor(f"{module}.lora_A.weight", (experts * whole, inputs), down),
        Tensor(f"{module}.lora_B.weight", (total, whole * experts), up),
    ]
