"""What a training step computes and keeps, as plain numbers that a layout divides.

B rows, T positions, D embed, N query heads, K key/value heads, H head, F hidden, L layers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from jaxllm.models import DecoderConfig
from jaxllm.nn.param import Nested
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout, weight_items

# Products of a block, by what it takes to leave out their recomputation.
Product = Literal["qkv", "out", "hidden", "down", "other"]


@dataclass(frozen=True)
class Piece:
    """An array of the training state. axes: logical, one a dimension; itemsize in bytes."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    itemsize: int

    def local_bytes(self, layout: Layout) -> int:
        """Bytes on one device."""
        cut = (
            math.ceil(size / layout.degree(axis)) if axis else size
            for size, axis in zip(self.shape, self.axes, strict=True)
        )
        return math.prod(cut) * self.itemsize


@dataclass(frozen=True, eq=False)
class Workload:
    """A model and its batch. specs: its weights; optimizer: the arrays of the optimizer's state.

    rows: of a batch, over all devices. num_chunks: parts of a row whose logits are computed one
    after the other. weight_copies: as many float32 copies of the weights are kept (2 with a moving
    average). offload_optimizer: its state lies in host memory in any layout.
    """

    model: DecoderConfig
    specs: Nested
    optimizer: tuple[Piece, ...]
    rows: int
    length: int
    num_chunks: int = 1
    weight_copies: int = 1
    offload_optimizer: bool = False

    @cached_property
    def weights(self) -> tuple[Piece, ...]:
        """All weights, in float32."""
        return tuple(Piece(spec.shape, spec.axes, 4) for _, spec in weight_items(self.specs))

    @cached_property
    def block_specs(self) -> tuple[tuple[Product, WeightSpec], ...]:
        """The stacked weights, each with the product that it is in."""
        return tuple(
            (_product(path), spec)
            for path, spec in weight_items(self.specs)
            if spec.axes[0] == "layers"
        )

    @cached_property
    def head_specs(self) -> tuple[WeightSpec, ...]:
        """The weights with a dimension of the vocabulary."""
        return tuple(spec for _, spec in weight_items(self.specs) if "vocab" in spec.axes)

    @cached_property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        spec = self.head_specs[0]
        return spec.shape[spec.axes.index("vocab")]

    @cached_property
    def num_matmul_params(self) -> int:
        """Weights that a token is multiplied by, as `train` counts them."""
        blocks = sum(
            self.model.active_size(spec) for _, spec in self.block_specs if spec.role == "hidden"
        )
        return blocks + math.prod(self.head_specs[0].shape)

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.length

    @property
    def flops(self) -> float:
        """The model's FLOPs of a step, recomputation not counted: what MFU divides."""
        return self.tokens * self.model.flops_per_token(self.num_matmul_params, self.length)

    def hidden_width(self) -> float:
        """Hidden units that a token passes in a layer, chosen and shared experts summed; a mean."""
        model = self.model
        if model.moe is None:
            return model.mlp_size
        wide = (model.moe.top_k + model.moe.num_shared_experts) * (
            model.moe.expert_dim or model.mlp_size
        )
        dense = model.num_dense_layers
        return (dense * model.mlp_size + (model.num_layers - dense) * wide) / model.num_layers


def local_bytes(pieces: Iterable[Piece], layout: Layout) -> int:
    """Bytes of all pieces on one device."""
    return sum(piece.local_bytes(layout) for piece in pieces)


def _product(path: str) -> Product:
    names = path.split(".")
    if "attention" in names:
        return "out" if "out" in names else "qkv"
    if "up" in names or "gate" in names:
        return "hidden"
    return "down" if "down" in names else "other"
