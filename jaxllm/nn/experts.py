"""Feed-forward networks side by side: their weights, and what the chosen ones make of a token.

B batch, T length, D embed, F hidden, N tokens, K chosen experts of a token, E experts, M rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx

from jaxllm.kernels.grouped_matmul import grouped_matmul
from jaxllm.kernels.per_device import per_device
from jaxllm.nn.expert_dispatch import Kernels, across_devices, within_device
from jaxllm.nn.mlp import ACTIVATIONS, Activation
from jaxllm.nn.param import Initializer, declare
from jaxllm.nn.remat import kept
from jaxllm.parallel.axes import Axis, WeightSpec
from jaxllm.parallel.layouts import Layout

AXES: dict[str, tuple[Axis, ...]] = {
    "up": ("experts", "expert_embed", "mlp"),
    "gate": ("experts", "expert_embed", "mlp"),
    "down": ("experts", "mlp", "expert_embed"),
}


class Experts(nnx.Module):
    """Networks like `Mlp`, without biases. No token is dropped, however uneven the load.

    With Linear, the other place where activations meet weights.
    """

    def __init__(
        self,
        key: jax.Array,
        *,
        num_experts: int,
        embed_dim: int,
        expert_dim: int,
        activation: Activation,
        is_gated: bool,
        init: Initializer,
        output_init: Initializer,
    ):
        up_key, gate_key, down_key = jax.random.split(key, 3)
        inward = (num_experts, embed_dim, expert_dim)
        outward = (num_experts, expert_dim, embed_dim)
        self.num_experts = num_experts
        self.activation = activation
        self.up = declare(up_key, _spec("up", inward), init)
        self.gate = declare(gate_key, _spec("gate", inward), init) if is_gated else None
        self.down = declare(down_key, _spec("down", outward), output_init)

    def __call__(
        self,
        x_BTD: jax.Array,
        choice_BTK: jax.Array,
        weights_BTK: jax.Array,
        *,
        layout: Layout | None,
    ) -> jax.Array:
        """(B, T, D) -> (B, T, D): the chosen experts' results, weighted and summed (in float32).

        Computed in the dtype of x. With a layout the result's positions are cut as they are
        between blocks.
        """
        kernels = {
            name: param[...].astype(x_BTD.dtype)
            for name, param in (("up", self.up), ("gate", self.gate), ("down", self.down))
            if param is not None
        }
        network = partial(
            feed_forward,
            activation=self.activation,
            platform=jax.default_backend() if layout is None else layout.platform,
        )
        options = {"network": network, "num_experts": self.num_experts}
        if layout is None or layout.mesh.size == 1:
            return _of_tokens(within_device, x_BTD, choice_BTK, weights_BTK, kernels, **options)
        rows: tuple[Axis | None, ...] = ("batch", "length", None)
        return per_device(
            partial(_device_part, tuple(kernels), layout, options),
            layout,
            in_axes=[rows, rows, rows, *(AXES[name] for name in kernels)],
            out_axes=("batch", "residual_length", None),
        )(x_BTD, choice_BTK, weights_BTK, *kernels.values())


def feed_forward(
    kernels: Kernels, x_MD: jax.Array, sizes_E: jax.Array, *, activation: Activation, platform: str
) -> jax.Array:
    """(M, D) -> (M, D): each group of rows through its expert; undefined beyond the groups."""
    product = partial(grouped_matmul, sizes_E=sizes_E, platform=platform)
    h_MF = kept(product(x_MD, kernels["up"]), "up")
    if "gate" in kernels:
        gate_MF = kept(product(x_MD, kernels["gate"]), "gate")
        h_MF = ACTIVATIONS[activation](gate_MF) * h_MF
    else:
        h_MF = ACTIVATIONS[activation](h_MF)
    return product(h_MF, kernels["down"])


def _device_part(
    names: tuple[str, ...],
    layout: Layout,
    options: dict[str, Any],
    x_BTD: jax.Array,
    choice_BTK: jax.Array,
    weights_BTK: jax.Array,
    *kernels: jax.Array,
) -> jax.Array:
    """One device's rows, given its cut of each kernel.

    Every device along the axes that cut hidden units computes all tokens of its rows for its
    hidden units, and gets the sum for its share of the positions.
    """
    cut = layout.mesh_axes("expert_embed")
    whole = {
        name: _gathered(kernel, cut, dim=AXES[name].index("expert_embed"))
        for name, kernel in zip(names, kernels, strict=True)
    }
    dispatch: Callable = within_device
    if layout.mesh_axes("experts"):
        (axis,) = layout.mesh_axes("experts")
        every = layout.mesh.axis_names
        dispatch = partial(across_devices, axis=axis, mesh_axes=every)
    y_BTD = _of_tokens(dispatch, x_BTD, choice_BTK, weights_BTK, whole, **options)
    hidden = layout.mesh_axes("mlp")
    if not hidden:
        return y_BTD
    assert layout.mesh_axes("residual_length") == layout.mesh_axes("length") + hidden
    return jax.lax.psum_scatter(y_BTD, hidden, scatter_dimension=1, tiled=True)


def _gathered(kernel: jax.Array, mesh_axes: tuple[str, ...], *, dim: int) -> jax.Array:
    # By hand rather than by the compiler, as its transpose then is a reduce-scatter.
    return jax.lax.all_gather(kernel, mesh_axes, axis=dim, tiled=True) if mesh_axes else kernel


def _of_tokens(
    dispatch: Callable,
    x_BTD: jax.Array,
    choice_BTK: jax.Array,
    weights_BTK: jax.Array,
    kernels: Kernels,
    **options: Any,
) -> jax.Array:
    """`dispatch` of rows as a list of tokens."""
    tokens = (jax.lax.collapse(x, 0, 2) for x in (x_BTD, choice_BTK, weights_BTK))
    return dispatch(*tokens, kernels, **options).reshape(x_BTD.shape)


def _spec(name: str, shape: tuple[int, int, int]) -> WeightSpec:
    return WeightSpec(shape, AXES[name], "hidden", (1,), (2,))
