"""The vocabulary of logical axes, and the declaration of a weight in its terms.

A model says what each dimension *is* with these names; `layouts.py` alone says where a
dimension *lives* on the mesh.
"""

from dataclasses import dataclass
from typing import Literal, get_args

# Dimensions of weights.
WeightAxis = Literal[
    "rounds",  # passes around the stages of a circular pipeline, outside of `layers`
    "layers",  # stacked blocks, scanned over
    "experts",  # feed-forward networks to choose from
    "vocab",  # rows of the embedding, columns of the output projection
    "positions",  # rows of a learned position table
    "buckets",  # rows of a table of biases by distance
    "token_types",  # rows of the table that tells the texts of a pair apart
    "patch",  # the numbers of one square of an image
    "embed",  # the residual stream
    "heads",  # query heads
    "kv_heads",  # key and value heads
    "head_dim",  # one head
    "mlp",  # the hidden layer of the feed-forward block
    "expert_embed",  # the residual stream, in the weights of experts
    "latent",  # a small vector that heads are made of, as a result
    "latent_input",  # the same, as what a weight is multiplied by
    "routes",  # experts as what a router chooses from
    "projection",  # what a head or a tower makes of the residual stream, before its own result
    "labels",  # classes
    "rank",  # the inner dimension of a product that is learned beside a weight
    "tile",  # inputs of a quantised weight that all share a scale, as one
]

# Dimensions of activations. They have names of their own because one array may not use one
# mesh axis twice, and because activations are cut where weights are not (and the reverse).
ActivationAxis = Literal[
    "batch",
    "length",  # positions, where attention and feed-forward look at them
    "residual_length",  # positions of the residual stream, between blocks
    "act_embed",
    "act_heads",
    "act_kv_heads",
    "act_head_dim",
    "act_mlp",
    "act_vocab",
]

Axis = WeightAxis | ActivationAxis
WEIGHT_AXES: tuple[str, ...] = get_args(WeightAxis)
ACTIVATION_AXES: tuple[str, ...] = get_args(ActivationAxis)

# What a weight does in the network; optimizers and decay masks go by it.
#   hidden: a matrix between hidden dimensions   embedding: rows looked up by index
#   output: the projection to the vocabulary     scale, bias: vectors, never decayed
Role = Literal["hidden", "embedding", "output", "scale", "bias"]


@dataclass(frozen=True)
class WeightSpec:
    """The one declaration of a weight; sharding, fan-in, decay and Muon's matrices follow from it.

    `input_dims` and `output_dims` are indices into `shape`: the dimensions a matmul sums over
    and those it produces. Every other dimension (`layers`, `experts`) is a batch of
    independent weights, which an optimizer must treat one by one.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    role: Role
    input_dims: tuple[int, ...] = ()
    output_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), (self.shape, self.axes)
        assert not set(self.input_dims) & set(self.output_dims), self
        unknown = [axis for axis in self.axes if axis not in WEIGHT_AXES]
        assert not unknown, f"not a weight axis: {unknown}"

    @property
    def batch_dims(self) -> tuple[int, ...]:
        """The dimensions along which weights are independent of each other."""
        bound = self.input_dims + self.output_dims
        return tuple(dim for dim in range(len(self.shape)) if dim not in bound)

    @property
    def fan_in(self) -> int:
        """The number of inputs summed into one output."""
        size = 1
        for dim in self.input_dims:
            size *= self.shape[dim]
        return size

    def stacked(self, axis: WeightAxis, size: int) -> "WeightSpec":
        """The spec of `size` such weights stacked along a new leading dimension."""
        return WeightSpec(
            shape=(size, *self.shape),
            axes=(axis, *self.axes),
            role=self.role,
            input_dims=tuple(dim + 1 for dim in self.input_dims),
            output_dims=tuple(dim + 1 for dim in self.output_dims),
        )
