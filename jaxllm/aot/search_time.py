"""How long a step of a candidate takes, by arithmetic: a roofline of each kind of work.

Products and kernels at a share of the chip's peak, element-wise work by its bytes of HBM,
exchanges by their bytes over the links. Compiled programs correct each part later.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jaxllm.aot.cost import EXPECTED
from jaxllm.aot.search_links import Links
from jaxllm.aot.search_memory import kept_bytes
from jaxllm.aot.search_share import Share, head_tokens, share_of
from jaxllm.aot.search_space import Candidate
from jaxllm.aot.search_workload import Product, Workload
from jaxllm.aot.topology import Topology
from jaxllm.hardware import CHIPS, Chip
from jaxllm.nn.expert_dispatch import HEADROOM
from jaxllm.nn.remat import NAMES
from jaxllm.parallel.layouts import MeshAxis

_BF16 = 2
_TILE = 256  # products narrower than a multiple of it leave parts of the matrix units idle
_BLOCK = 1024  # of attention: blocks on the diagonal are computed whole
# Passes over a token's numbers, forward, again and backward; from compiled 7B programs.
_EMBED_PASSES, _HIDDEN_PASSES = 12, 6
_STATE_PASSES = 7  # of the optimizer over float32 weights: five reads, two writes and the gradient
# Share of the gathers of weights that nothing hides. Only v5e's compiler makes them asynchronous.
_EXPOSED_GATHERS = {"v5e": 0.1}
_EXPOSED_STREAM = 0.8  # likewise of activations, gathered along `tensor`
_DISTURBING = 0.35  # of a transfer to or from the host, waited for although there is time
_HIDING = 0.8  # of the compute, that an asynchronous transfer may run beside
# Which exchanges count as whose, where a group spans several axes.
_OWNERS: tuple[MeshAxis, ...] = ("slice", "stage", "fsdp", "data", "expert", "context", "tensor")


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of a step. lower: surely taken. parts: by kind, exposed exchanges by mesh axis."""

    lower: float
    parts: Mapping[str, float]


def owner(axes: tuple[str, ...]) -> str:
    """The part of an estimate that an exchange along these mesh axes belongs to."""
    return next((axis for axis in _OWNERS if axis in axes), "fsdp")


def estimate_time(workload: Workload, candidate: Candidate, topology: Topology) -> TimeEstimate:
    """The roofline of a candidate whose sizes divide."""
    share = share_of(workload, candidate.parallel)
    chip = chip_of(topology)
    links = Links.of(topology, share.layout.mesh.shape)
    flops = _matmul_flops(workload, candidate, share)
    kernel = _attention_flops(workload, candidate, share)
    parts = {
        "matmul": flops / (chip.peak_flops * EXPECTED.matmul * _filling(share)),
        "pallas": kernel / (chip.peak_flops * EXPECTED.pallas),
        "vector": _vector_bytes(workload, candidate, share) / _hbm(topology),
    }
    parts["matmul"] = max(parts["matmul"], _weight_bytes(candidate, share) / _hbm(topology))
    busy = sum(parts.values())
    parts["copy"] = _host_seconds(workload, candidate, share, topology, busy=busy)
    for axis, seconds in _exchanges(workload, candidate, share, links, busy=busy).items():
        parts[axis] = parts.get(axis, 0.0) + seconds
    return TimeEstimate((flops + kernel) / chip.peak_flops, parts)


def chip_of(topology: Topology) -> Chip:
    """One device of a slice."""
    return next(chip for chip in CHIPS.values() if chip.name == topology.tpu.name)


def _hbm(topology: Topology) -> float:
    return topology.tpu.hbm_bandwidth * EXPECTED.hbm


def _is_kept(candidate: Candidate, *names: str) -> bool:
    """Whether the backward pass finds these rather than computing them again."""
    if candidate.remat in ("none", "dots"):
        return "attention" not in names or candidate.remat == "none"
    return set(names) <= {*NAMES[candidate.remat], *NAMES[candidate.offload]}


def _again(candidate: Candidate, workload: Workload) -> dict[Product, float]:
    """How often each product of a block is computed a second time: 0 or 1."""
    hidden = ("up", "gate") if workload.model.is_gated else ("up",)
    is_moe = workload.model.moe is not None
    # Grouped products of experts are not among the `dots`.
    is_hidden_kept = _is_kept(candidate, *hidden) and not (is_moe and candidate.remat == "dots")
    return {
        "qkv": float(not _is_kept(candidate, "query", "key", "value")),
        "out": float(not _is_kept(candidate, "branch")),
        "hidden": float(not is_hidden_kept),
        # The backward pass needs what leaves an expert for its weight; a dense block's it does not.
        "down": float(is_moe and candidate.remat != "none"),
        "other": 0.0,
    }


def _matmul_flops(workload: Workload, candidate: Candidate, share: Share) -> float:
    again = _again(candidate, workload)
    layer = sum(2 * size * (3 + again[product]) for product, size in share.products.items())
    vocab = workload.vocab_size / share.layout.degree("act_vocab")
    head = 6 * head_tokens(share) * vocab * workload.model.embed_dim
    return share.tokens * share.num_layers * share.bubble * layer + head


def _attention_flops(workload: Workload, candidate: Candidate, share: Share) -> float:
    """Forward 2 products of every query and the keys before it, backward 5."""
    length = workload.length
    keys = length * min(1.0, 0.5 + 0.5 * _BLOCK / length)
    products = 7 if _is_kept(candidate, "attention") else 9
    layer = products * 2 * keys * share.widths["query"]
    return share.tokens * share.num_layers * share.bubble * layer


def _vector_bytes(workload: Workload, candidate: Candidate, share: Share) -> float:
    width = _EMBED_PASSES * share.residual_width + _HIDDEN_PASSES * share.widths["up"]
    layers = share.tokens * share.num_layers * share.bubble * width * _BF16
    return layers + _STATE_PASSES * share.gradient_bytes


def _weight_bytes(candidate: Candidate, share: Share) -> float:
    """What products read of weights: forward, again, and twice backward."""
    passes = 4 * _num_passes(candidate, share)
    return passes * share.num_layers * share.layer_size * _BF16


def _num_passes(candidate: Candidate, share: Share) -> int:
    """How often a step goes through the layers, with a part of the batch each time."""
    pipeline = share.layout.pipeline
    return candidate.num_microbatches * (1 if pipeline is None else pipeline.num_microbatches)


def _filling(share: Share) -> float:
    """How well the matrix units are filled by the narrowest of the products."""
    widths = (share.widths["up"], share.widths["query"])
    return min(width / (math.ceil(width / _TILE) * _TILE) for width in widths)


def _host_seconds(
    workload: Workload, candidate: Candidate, share: Share, topology: Topology, *, busy: float
) -> float:
    """Waiting for the host: activations pass beside the compute, optimizer state after it."""
    rate = topology.tpu.host_bandwidth * EXPECTED.host
    _, away = kept_bytes(workload, share, candidate)
    moved = 2 * candidate.num_microbatches * away / rate
    waited = max(_DISTURBING * moved, moved - _HIDING * busy)
    if share.layout.is_optimizer_offloaded:
        waited += 2 * share.optimizer_bytes / rate
    return waited


def _exchanges(
    workload: Workload, candidate: Candidate, share: Share, links: Links, *, busy: float
) -> dict[str, float]:
    """Exposed seconds by mesh axis."""
    found: dict[str, float] = dict.fromkeys(_OWNERS, 0.0)
    for axes, seconds in _weight_exchanges(candidate, share, links, busy=busy):
        found[owner(axes)] += seconds
    again = _again(candidate, workload)
    stream = share.tokens * share.num_layers * share.bubble * _BF16
    embed, moe = workload.model.embed_dim, workload.model.moe
    # Into and out of both halves of a block, forward and backward, and what is computed again.
    crossings = 8 + 2 * again["qkv"] + again["hidden"]
    crossed = crossings * links.gather(stream * embed, "tensor")
    found["tensor"] += _EXPOSED_STREAM * crossed
    found["context"] += _context_seconds(candidate, share, links, stream=stream, again=again)
    if moe is not None:
        swaps = 4 + 2 * again["hidden"]
        found["expert"] += swaps * links.swap(HEADROOM * stream * moe.top_k * embed, "expert")
    if share.layout.pipeline is not None:
        # Two rings, forward and backward.
        turns = 4 * share.tokens * share.bubble * share.layout.pipeline.num_rounds
        rate = EXPECTED.link * links.topology.tpu.link_bandwidth
        found["stage"] += turns * share.residual_width * _BF16 / rate
    return found


def _weight_exchanges(
    candidate: Candidate, share: Share, links: Links, *, busy: float
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Exposed seconds of bringing weights together and of summing gradients, with the mesh axes."""
    layout = share.layout
    weights = share.num_layers * share.layer_size * _BF16
    cut = layout.mesh_axes("embed")
    if cut:
        gathers = 2 * _num_passes(candidate, share) * links.gather(weights, *cut)
        exposed = _EXPOSED_GATHERS.get(links.topology.tpu.name, 1.0)
        yield cut, max(exposed * gathers, gathers - _HIDING * busy)
    rows = tuple(axis for axis in layout.mesh_axes("batch") if axis != "slice")
    summed = tuple(dict.fromkeys((*cut, *rows)))
    if summed:
        size = weights + share.head_size * _BF16
        yield summed, candidate.num_microbatches * links.reduce(size, *summed)
    if layout.name == "zero1":
        updated = layout.for_optimizer().mesh_axes("embed")
        yield updated, links.gather(share.parameter_bytes, *updated)
    mine = weights / links.size(*cut) if cut else share.gradient_bytes
    yield ("slice",), links.between_slices(mine)


def _context_seconds(
    candidate: Candidate,
    share: Share,
    links: Links,
    *,
    stream: float,
    again: Mapping[Product, float],
) -> float:
    """Keys and values brought to every query, or heads exchanged for positions."""
    degree = links.size("context")
    keys = share.widths["key"] + share.widths["value"]
    passes = 2 + (0 if _is_kept(candidate, "attention") else again["qkv"])
    match candidate.parallel.context_attention:
        case "ulysses":
            width = keys + 2 * share.widths["query"]
            return (passes + 1) * links.swap(stream * width, "context")
        case "ring":
            # Beside the attention of the block before; the gradients of keys travel too.
            return 0.3 * (passes + 1) * links.gather(stream * degree * keys, "context")
    return (passes + 1) * links.gather(stream * degree * keys, "context")
