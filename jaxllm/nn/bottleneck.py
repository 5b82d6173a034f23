"""Bottleneck adapters: small networks behind the branches of blocks that stay as they are.

B batch, T length, D embed.
"""

from typing import Literal

import jax
from flax import nnx
from pydantic import Field, PositiveInt

from jaxllm.nn.branch import Branch
from jaxllm.nn.linear import Linear
from jaxllm.nn.lora import modules
from jaxllm.nn.mlp import ACTIVATIONS, Activation
from jaxllm.nn.param import fan_in_normal, spec_dict, zeros
from jaxllm.nn.parts import matching
from jaxllm.nn.stack import stacked
from jaxllm.parallel.layouts import Layout, constrain, weight_items
from jaxllm.schema import Config


class Bottleneck(nnx.Module):
    """y becomes y + up(act(down y)) (arXiv:1902.00751, section 2.1).

    `up` is zero at first, and nothing changes.
    """

    def __init__(self, key: jax.Array, *, embed_dim: int, size: int, activation: Activation):
        self.activation = activation
        self.down = Linear(
            key,
            inputs={"embed": embed_dim},
            outputs={"rank": size},
            use_bias=True,
            init=fan_in_normal(),
        )
        self.up = Linear(
            key, inputs={"rank": size}, outputs={"embed": embed_dim}, use_bias=True, init=zeros
        )

    def __call__(self, y_BTD: jax.Array, *, layout: Layout | None) -> jax.Array:
        """(B, T, D) -> (B, T, D)."""
        # As the residual stream lies: what tensor parallelism cut is summed before, not twice.
        y_BTD = constrain(layout, y_BTD, "batch", "residual_length", "act_embed")
        return y_BTD + self.up(ACTIVATIONS[self.activation](self.down(y_BTD)))


class BottleneckConfig(Config):
    """Small networks behind branches of blocks (arXiv:1902.00751), trained beside the weights."""

    type: Literal["bottleneck"] = "bottleneck"
    """Bottlenecks of two linear layers behind attention or feed-forward layers."""
    size: PositiveInt = 64
    """Width of a bottleneck."""
    activation: Activation = "gelu"
    """Nonlinearity between its two layers."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Branches that one stands behind, by patterns over their paths: '*.attention' and '*.mlp' as
    in arXiv:1902.00751, or '*.mlp' alone as in arXiv:2005.00247."""
    also_trained: tuple[str, ...] = ()
    """Weights of the network itself that are trained too, by patterns over their paths, as a head
    that init_from does not have."""

    def attach(self, key: jax.Array, model: nnx.Module) -> None:
        """Give the branches of a new network their bottlenecks, in place.

        ValueError for a pattern without a branch.
        """
        branches = _outermost(dict(modules(model, Branch)))
        chosen = sorted(matching(self.targets, branches.keys(), key="adapter.targets"))
        for number, path in enumerate(chosen):
            branch, own_key = branches[path], jax.random.fold_in(key, number)
            branch.bottleneck = self._behind(own_key, branch)

    def _behind(self, key: jax.Array, branch: Branch) -> Bottleneck:
        """One for a branch, or for each of a stack of them."""
        spec = next(spec for _, spec in weight_items(spec_dict(branch)) if "embed" in spec.axes)

        def make(key: jax.Array) -> Bottleneck:
            embed_dim = spec.shape[spec.axes.index("embed")]
            return Bottleneck(key, embed_dim=embed_dim, size=self.size, activation=self.activation)

        if spec.axes[0] != "layers":
            return make(key)
        return stacked(key, make, num_layers=spec.shape[0])


def _outermost(branches: dict[str, Branch]) -> dict[str, Branch]:
    """Those that no other has inside: the experts that all tokens pass are part of a mixture."""
    return {
        path: branch
        for path, branch in branches.items()
        if not any(path.startswith(f"{other}.") for other in branches)
    }
