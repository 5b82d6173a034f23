"""What of a workload one device of a mesh has: sizes that all candidates on the mesh share."""

import math
from dataclasses import dataclass
from functools import lru_cache

from jaxllm.aot.search_space import Candidate, abstract_layout
from jaxllm.aot.search_workload import Product, Workload, local_bytes
from jaxllm.nn.remat import Activation
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.mesh import ParallelConfig

_ALONG_EMBED = ("embed", "latent_input", "expert_embed")  # gathered before use, where they are cut


@dataclass(frozen=True)
class Share:
    """One device's part. Sizes in numbers, or in bytes where they say so.

    parameter_bytes, optimizer_bytes, gradient_bytes: of the whole state on the device.
    block_gradient_bytes: of the stacked weights, cut like the optimizer's state.
    tokens: of a step that pass this device's layers. num_layers: of its stage.
    products: matmul weights of one layer that a token meets here, by what they compute.
    layer_size, head_size: weights of one layer, and of embedding and output, gathered.
    widths: numbers a token of each named activation. residual_width: likewise between blocks.
    bubble: ticks of a pipeline over those with something to do.
    """

    layout: Layout
    parameter_bytes: int
    optimizer_bytes: int
    gradient_bytes: int
    block_gradient_bytes: int
    tokens: float
    num_layers: int
    products: dict[Product, float]
    layer_size: float
    head_size: float
    widths: dict[Activation, float]
    residual_width: float
    bubble: float


@lru_cache(maxsize=8192)
def share_of(workload: Workload, parallel: ParallelConfig) -> Share:
    """The part of a workload that each device of a mesh has; its sizes must divide."""
    layout, model = abstract_layout(parallel), workload.model
    blocks = [piece for piece in workload.weights if piece.axes[0] == "layers"]
    stages = layout.axis_size("stage")
    products: dict[Product, float] = {}
    for product, spec in workload.block_specs:
        if spec.role == "hidden":
            met = model.active_size(spec) / model.num_layers / _inner_degree(spec, layout)
            products[product] = products.get(product, 0.0) + met
    return Share(
        layout=layout,
        parameter_bytes=local_bytes(workload.weights, layout) * workload.weight_copies,
        optimizer_bytes=local_bytes(workload.optimizer, layout.for_optimizer()),
        gradient_bytes=local_bytes(workload.weights, layout),
        block_gradient_bytes=local_bytes(blocks, layout.for_optimizer()),
        tokens=workload.tokens / (layout.degree("batch") * layout.degree("length")),
        num_layers=model.num_layers // stages,
        products=products,
        layer_size=sum(
            math.prod(spec.shape)
            / model.num_layers
            / _inner_degree(spec, layout, with_experts=True)
            for _, spec in workload.block_specs
        ),
        head_size=sum(
            math.prod(spec.shape) / layout.degree("vocab") for spec in workload.head_specs
        ),
        widths=kept_widths(workload, layout),
        residual_width=_residual_width(workload, layout),
        bubble=bubble_factor(layout),
    )


def tokens_at_once(share: Share, candidate: Candidate) -> float:
    """Tokens that a device computes with at the same time, between blocks."""
    pipeline = share.layout.pipeline
    parts = 1 if pipeline is None else pipeline.num_microbatches
    return share.tokens / (candidate.num_microbatches * parts)


def head_tokens(share: Share) -> float:
    """Tokens of a step whose logits a device computes: stages share the rows among them."""
    return share.tokens / share.layout.axis_size("stage")


def bubble_factor(layout: Layout) -> float:
    """Ticks of a pipeline over those in which a stage has something to do; 1 without one."""
    if layout.pipeline is None:
        return 1.0
    jobs = layout.pipeline.num_microbatches * layout.pipeline.num_rounds
    return (jobs + layout.axis_size("stage") - 1) / jobs


def kept_widths(workload: Workload, layout: Layout) -> dict[Activation, float]:
    """Numbers a token that each named activation has in a layer, on one device."""
    model = workload.model
    heads = model.num_heads * model.head_size / layout.degree("act_heads")
    keys = model.kv_heads * model.head_size / layout.degree("act_kv_heads")
    hidden = workload.hidden_width() / layout.degree("act_mlp")
    return {
        "query": heads,
        "key": keys,
        "value": keys,
        "gate": hidden if model.is_gated else 0.0,
        "up": hidden,
        # With the log-normaliser of each head, in float32.
        "attention": heads + 2 * model.num_heads / layout.degree("act_heads"),
        "branch": _residual_width(workload, layout),
    }


def _residual_width(workload: Workload, layout: Layout) -> float:
    return workload.model.embed_dim * layout.degree("length") / layout.degree("residual_length")


def _inner_degree(spec: WeightSpec, layout: Layout, *, with_experts: bool = False) -> int:
    """Pieces of one layer's weight that a device computes with.

    with_experts: as it lies in memory. Otherwise as a token meets it, wherever its experts are.
    """
    left_out = ("layers", *_ALONG_EMBED, *(() if with_experts else ("experts",)))
    return math.prod(layout.degree(axis) for axis in spec.axes if axis not in left_out)
