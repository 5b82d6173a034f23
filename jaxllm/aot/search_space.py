"""The ways to run one workload on a slice: degrees of the mesh, remat, microbatches, flags."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jax.sharding import AbstractMesh

from jaxllm.aot.search_workload import Workload
from jaxllm.nn.remat import NAMES, OffloadPolicy, RematPolicy
from jaxllm.parallel.layouts import (
    ContextAttention,
    Layout,
    Pipeline,
    check_batch,
    check_length,
    check_weights,
    resolve,
)
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.pipeline import check_pipeline
from jaxllm.xla_flags import FlagValue

Flags = tuple[tuple[str, FlagValue | None], ...]


def _fast_memory(kib: int) -> tuple[Flags, ...]:
    return ((("xla_tpu_scoped_vmem_limit_kib", kib),),)


# Compiler options that help some programs and hurt others: each is tried on the best candidate.
# Which share of the fast memory gives a program the best tiles, only compiling it tells.
OPTIONAL_FLAGS: dict[str, tuple[Flags, ...]] = {
    "v4": (),  # there is no more of it than fusions have anyway
    "v5e": _fast_memory(65536),
    "v5p": _fast_memory(65536),
    "v6e": _fast_memory(49152),
    "tpu7x": _fast_memory(32768),
}

# Within these bounds the search looks.
_MOST_TENSOR = 16  # beyond, collectives on activations cost more than anything they save
_LONG_ROWS = 16384  # positions from which on a row is worth cutting
_MOST_CONTEXT = 16
_MANY_LAYERS = 48  # from which on a pipeline is worth its bubble
_MANY_DEVICES = 32  # likewise
_MOST_STAGES = 8
_MOST_PARTS = 16


@dataclass(frozen=True)
class Candidate:
    """One way to run the step. flags: compiler options beside the chip's; None takes one out.

    parallel: with every degree given, so that it stands for one mesh.
    """

    parallel: ParallelConfig
    remat: RematPolicy
    offload: OffloadPolicy
    num_microbatches: int
    flags: Flags = ()

    def overrides(self) -> dict[str, Any]:
        """The config's keys that make a run this candidate, dotted; `parallel` is all of it."""
        return {
            "parallel": self.parallel.model_dump(mode="json", exclude_defaults=True),
            "model.remat": self.remat,
            "model.offload": self.offload,
            "training.num_microbatches": self.num_microbatches,
            **{f"xla_flags.{name}": value for name, value in self.flags},
        }

    @property
    def layout_words(self) -> str:
        """The layout, such as fsdp 8 x tensor 2."""
        parallel = self.parallel
        sizes = abstract_layout(parallel).mesh.shape
        words = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1)
        if parallel.layout != "fsdp":
            words = f"{parallel.layout}: {words}"
        if parallel.context > 1:
            words += f", {parallel.context_attention}"
        if parallel.stage > 1:
            words += f", {parallel.pipeline_rounds} rounds"
        return words or "one device"

    @property
    def remat_words(self) -> str:
        """What of a block is kept for the backward pass, and where."""
        words: str = self.remat
        if self.offload != "none":
            words += f", {self.offload} on host"
        if self.parallel.offload_optimizer:
            words += ", optimizer on host"
        return words


@lru_cache(maxsize=4096)
def abstract_layout(parallel: ParallelConfig) -> Layout:
    """The layout on a mesh without devices: it knows degrees, and no platform."""
    given = (parallel.slice, parallel.stage, parallel.data, parallel.fsdp)
    inner = (parallel.expert, parallel.context, parallel.tensor)
    count = math.prod(size or 1 for size in (*given, *inner))
    sizes = parallel.sizes(count, num_slices=parallel.slice or 1)
    mesh: Any = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    pipeline = None
    if parallel.stage > 1:
        parts = parallel.pipeline_microbatches or 4 * parallel.stage
        pipeline = Pipeline(parts, parallel.pipeline_rounds)
    return resolve(
        parallel.layout,
        mesh,
        context_attention=parallel.context_attention,
        pipeline=pipeline,
        is_optimizer_offloaded=parallel.offload_optimizer,
    )


def check(parallel: ParallelConfig, num_microbatches: int, workload: Workload) -> None:
    """ValueError, as `compile` would raise it, for sizes that the mesh does not divide."""
    layout, rows = abstract_layout(parallel), workload.rows
    if rows % num_microbatches:
        raise ValueError(
            f"training.num_microbatches={num_microbatches} does not divide "
            f"data.global_batch_size={rows}"
        )
    chunks = workload.num_chunks * layout.degree("length")
    if workload.length % chunks:
        raise ValueError(
            f"objective.num_chunks={workload.num_chunks} on parallel.context={parallel.context} "
            f"does not divide data.sequence_length={workload.length}"
        )
    part = rows // num_microbatches
    check_batch(layout, part, key="data.global_batch_size")
    check_length(layout, workload.length, key="data.sequence_length")
    for num_layers in workload.model.stack_depths:
        check_pipeline(layout, num_layers=num_layers, rows=part)
    check_weights(layout, workload.specs)
    check_weights(layout.for_optimizer(), workload.specs)
    if parallel.context_attention == "ulysses" and (
        workload.model.kv_heads % (parallel.context * parallel.tensor)
    ):
        raise ValueError(f"parallel.context={parallel.context} does not divide the heads")


def candidates(
    workload: Workload, *, num_devices: int, num_slices: int = 1, most_parts: int = _MOST_PARTS
) -> list[Candidate]:
    """Every candidate whose sizes divide, without flags. num_devices: of all slices together.

    most_parts: largest number of microbatches. ValueError, naming the keys, if there is none.
    """
    found, refusals = [], []
    for mesh in meshes(workload, num_devices=num_devices, num_slices=num_slices):
        parallel = mesh.model_copy(update={"offload_optimizer": workload.offload_optimizer})
        for parts in (2**power for power in range(most_parts.bit_length())):
            try:
                check(parallel, parts, workload)
            except ValueError as error:
                refusals.append(str(error))
                break  # what does not divide does not divide in smaller parts either
            found += [Candidate(parallel, *policy, parts) for policy in policies()]
    if not found:
        raise ValueError(
            f"data.global_batch_size is {workload.rows}: no layout of {num_devices} devices "
            "divides these rows and the model's sizes; change --global-batch or --topology. "
            f"Among the reasons:\n  {refusals[0]}"
        )
    return found


def meshes(workload: Workload, *, num_devices: int, num_slices: int) -> Iterator[ParallelConfig]:
    """Every product of degrees worth trying, whether it divides the model or not."""
    within, model = num_devices // num_slices, workload.model
    tensors = _divisors(within, most=min(_MOST_TENSOR, model.num_heads))
    contexts = _divisors(within, most=_MOST_CONTEXT if workload.length >= _LONG_ROWS else 1)
    experts = _divisors(within, most=1 if model.moe is None else model.moe.num_experts)
    has_stages = model.num_layers >= _MANY_LAYERS and within >= _MANY_DEVICES
    stages = _divisors(within, most=_MOST_STAGES if has_stages else 1)
    for inner in itertools.product(stages, experts, contexts, tensors):
        if within % math.prod(inner):
            continue
        rest = within // math.prod(inner)
        for fsdp in _divisors(rest, most=rest):
            yield from _variants(inner, data=rest // fsdp, fsdp=fsdp, num_slices=num_slices)


def _variants(
    inner: tuple[int, ...], *, data: int, fsdp: int, num_slices: int
) -> Iterator[ParallelConfig]:
    """The layouts, ways of context attention and rounds of one mesh."""
    stage, expert, context, tensor = inner
    crossings: tuple[ContextAttention, ...] = ("all_gather",)
    if context > 1:
        crossings = ("all_gather", "ring", "ulysses")
    for crossing, rounds in itertools.product(crossings, (1, 2) if stage > 1 else (1,)):
        config = ParallelConfig(
            layout="fsdp",
            slice=num_slices if num_slices > 1 else None,
            stage=stage,
            data=data if data > 1 else None,
            fsdp=fsdp,
            expert=expert,
            context=context,
            tensor=tensor,
            context_attention=crossing,
            pipeline_rounds=rounds,
        )
        yield config
        # Every weight whole: the rows of the batch are cut along one axis, the state with them.
        if data == 1 and fsdp > 1:
            yield config.model_copy(update={"layout": "zero1"})


def policies() -> list[tuple[RematPolicy, OffloadPolicy]]:
    """Every pair that keeps something else. What lies in host memory is not kept twice."""
    found: dict[Any, tuple[RematPolicy, OffloadPolicy]] = {
        ("none",): ("none", "none"),
        ("dots",): ("dots", "none"),
    }
    remats: tuple[RematPolicy, ...] = (
        *("full", "attention", "attention_value"),
        *("qkv", "qkv_mlp", "matmuls"),
    )
    offloads: tuple[OffloadPolicy, ...] = ("none", "qkv", "qkv_mlp")
    for offload, remat in itertools.product(offloads, remats):
        away = frozenset(NAMES[offload])
        found.setdefault((frozenset(NAMES[remat]) - away, away), (remat, offload))
    return list(found.values())


def _divisors(number: int, *, most: int) -> list[int]:
    return [size for size in range(1, min(number, most) + 1) if number % size == 0]
