"""Feed-forward networks side by side: their weights, and what the chosen ones make of a token.

B batch, T length, D embed, F hidden, N tokens, K chosen experts of a token, E experts, M rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.kernels.per_device import per_device
from jaxllm.nn.expert_dispatch import Kernels, across_devices, within_device
from jaxllm.nn.expert_matrix import ExpertMatrix, product
from jaxllm.nn.mlp import ACTIVATIONS, Activation
from jaxllm.nn.param import Initializer
from jaxllm.nn.remat import kept
from jaxllm.parallel.axes import Axis
from jaxllm.parallel.layouts import Layout


class Experts(nnx.Module):
    """Networks like `Mlp`, without biases. No token is dropped, however uneven the load."""

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
        narrow: tuple[Axis, int] = ("expert_embed", embed_dim)
        wide: tuple[Axis, int] = ("mlp", expert_dim)
        inward = partial(
            ExpertMatrix, num_experts=num_experts, inputs=narrow, outputs=wide, init=init
        )
        self.num_experts = num_experts
        self.activation = activation
        self.up = inward(up_key)
        self.gate = inward(gate_key) if is_gated else None
        self.down = ExpertMatrix(
            down_key, num_experts=num_experts, inputs=wide, outputs=narrow, init=output_init
        )

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
        matrices = {
            name: matrix
            for name, matrix in (("up", self.up), ("gate", self.gate), ("down", self.down))
            if matrix is not None
        }
        kernels = {name: matrix.operands(x_BTD.dtype, layout) for name, matrix in matrices.items()}
        network = partial(
            feed_forward,
            activation=self.activation,
            platform=jax.default_backend() if layout is None else layout.platform,
        )
        options = {"network": network, "num_experts": self.num_experts}
        if layout is None or layout.mesh.size == 1:
            return _of_tokens(within_device, x_BTD, choice_BTK, weights_BTK, kernels, **options)
        axes = {name: matrix.operand_axes(kernels[name]) for name, matrix in matrices.items()}
        rows: tuple[Axis | None, ...] = ("batch", "length", None)
        leaves, structure = jax.tree.flatten(kernels)
        leaf_axes = jax.tree.leaves(axes, is_leaf=lambda value: isinstance(value, tuple))

        def part(x: jax.Array, choice: jax.Array, weights: jax.Array, *cut: jax.Array) -> jax.Array:
            whole = (_whole(leaf, its, layout) for leaf, its in zip(cut, leaf_axes, strict=True))
            tokens = (x, choice, weights)
            return _device_part(layout, options, *tokens, jax.tree.unflatten(structure, whole))

        return per_device(
            part,
            layout,
            in_axes=[rows, rows, rows, *leaf_axes],
            out_axes=("batch", "residual_length", None),
        )(x_BTD, choice_BTK, weights_BTK, *leaves)


def feed_forward(
    kernels: Kernels, x_MD: jax.Array, sizes_E: jax.Array, *, activation: Activation, platform: str
) -> jax.Array:
    """(M, D) -> (M, D): each group of rows through its expert; undefined beyond the groups."""
    multiply = partial(product, sizes_E=sizes_E, platform=platform)
    h_MF = kept(multiply(kernels["up"], x_MD), "up")
    if "gate" in kernels:
        gate_MF = kept(multiply(kernels["gate"], x_MD), "gate")
        h_MF = ACTIVATIONS[activation](gate_MF) * h_MF
    else:
        h_MF = ACTIVATIONS[activation](h_MF)
    return multiply(kernels["down"], h_MF)


def _device_part(
    layout: Layout,
    options: dict[str, Any],
    x_BTD: jax.Array,
    choice_BTK: jax.Array,
    weights_BTK: jax.Array,
    kernels: Kernels,
) -> jax.Array:
    """One device's rows, given its experts' kernels, of which it has its hidden units.

    Every device along the axes that cut hidden units computes all tokens of its rows for its
    hidden units, and gets the sum for its share of the positions.
    """
    dispatch: Callable = within_device
    if layout.mesh_axes("experts"):
        (axis,) = layout.mesh_axes("experts")
        every = layout.mesh.axis_names
        dispatch = partial(across_devices, axis=axis, mesh_axes=every)
    y_BTD = _of_tokens(dispatch, x_BTD, choice_BTK, weights_BTK, kernels, **options)
    hidden = layout.mesh_axes("mlp")
    if not hidden:
        return y_BTD
    assert layout.mesh_axes("residual_length") == layout.mesh_axes("length") + hidden
    return jax.lax.psum_scatter(y_BTD, hidden, scatter_dimension=1, tiled=True)


def _whole(kernel: jax.Array, axes: tuple[Axis, ...], layout: Layout) -> jax.Array:
    """A kernel, or what stands for it, with all of the residual stream, of one device's cut."""
    cut = layout.mesh_axes("expert_embed")
    if not cut or "expert_embed" not in axes:
        return kernel
    if kernel.dtype == jnp.int4:
        kernel = kernel.astype(jnp.int8)  # collectives of half bytes are not everywhere
    # By hand rather than by the compiler, as its transpose then is a reduce-scatter.
    return jax.lax.all_gather(kernel, cut, axis=axes.index("expert_embed"), tiled=True)


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
