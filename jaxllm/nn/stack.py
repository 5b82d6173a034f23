"""Equal layers, stacked: built with vmap, run with scan, recomputed in the backward pass.

This file alone knows that layers are stacked; compile time does not grow with depth.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxllm.nn.param import is_param
from jaxllm.nn.remat import OffloadPolicy, RematPolicy, recompute


class Stack(nnx.Module):
    """`num_layers` modules made by one function, their weights stacked along a `layers` axis."""

    def __init__(
        self,
        key: jax.Array,
        make_layer: Callable[[jax.Array], nnx.Module],
        *,
        num_layers: int,
        remat: RematPolicy,
        offload: OffloadPolicy = "none",
        is_scanned: bool,
    ):
        layers = jax.vmap(make_layer)(jax.random.split(key, num_layers))
        self.layers = jax.tree.map(
            lambda param: param.copy(spec=param.get_metadata("spec").stacked("layers", num_layers)),
            layers,
            is_leaf=is_param,
        )
        self.num_layers = num_layers
        self.remat = remat
        self.offload = offload
        self.is_scanned = is_scanned

    def __call__(
        self, body: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any, xs: Any
    ) -> tuple[Any, Any]:
        """Run carry, y = body(layer, carry, x) through the layers; xs and ys are stacked."""

        def step(carry: Any, layer_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
            layer, x = layer_and_x
            return body(layer, carry, x)

        return jax.lax.scan(
            recompute(step, self.remat, offload=self.offload, is_looped=self.is_scanned),
            carry,
            (self.layers, xs),
            unroll=1 if self.is_scanned else self.num_layers,
        )
