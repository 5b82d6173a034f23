"""Low-rank adapters: what a linear layer learns beside a weight that stays as it is.

B batch, M any leading dimensions, I inputs, O outputs, R rank.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxllm.kernels.matmul import matmul
from jaxllm.nn.dropout import dropout, fold_in
from jaxllm.nn.param import declare, fan_in_normal, is_param, zeros
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout


class Lora(nnx.Module):
    """x W becomes x W + s x A B (arXiv:2106.09685). B is zero at first, and nothing changes.

    With a magnitude (arXiv:2402.09353), the columns of W + s A B have lengths that are learned by
    themselves, as differences to those of W; their own length counts as a constant in gradients.
    """

    # Of dropout, in a step of training: see `with_keys`.
    keys_B: jax.Array | None = None
    layout: Layout | None = None

    def __init__(
        self,
        key: jax.Array,
        kernel: WeightSpec,
        *,
        rank: int,
        scale: float,
        rate: float,
        has_magnitude: bool,
    ):
        """kernel: the declaration of W, stacked or not. scale: s. rate: of dropout before A."""
        self.scale = scale
        self.rate = rate
        down, up, lengths = _specs(kernel, rank)
        self.a = declare(key, down, fan_in_normal())
        self.b = declare(key, up, zeros)
        self.magnitude = declare(key, lengths, zeros) if has_magnitude else None

    def __call__(self, y_MO: jax.Array, x_MI: jax.Array, kernel_IO: jax.Array) -> jax.Array:
        """What y = x W becomes. kernel_IO: W in float32."""
        a_IR, b_RO = (weight.astype(x_MI.dtype) for weight in self._pair())
        x_MI = dropout(x_MI, self.rate, self.keys_B, layout=self.layout)
        y_MO = y_MO + matmul(self.scale * matmul(x_MI, a_IR), b_RO)
        if self.magnitude is None:
            return y_MO
        return y_MO * self._stretch(kernel_IO, self._change()).astype(y_MO.dtype)

    def merged(self, kernel_IO: jax.Array) -> jax.Array:
        """The weight that alone computes what both do, in float32."""
        change_IO = self._change()
        merged_IO = kernel_IO + change_IO
        if self.magnitude is None:
            return merged_IO
        return merged_IO * self._stretch(kernel_IO, change_IO)

    def _pair(self) -> tuple[jax.Array, jax.Array]:
        a, b = self.a[...], self.b[...]
        rank = b.shape[0]
        return a.reshape(-1, rank), b.reshape(rank, -1)

    def _change(self) -> jax.Array:
        a_IR, b_RO = self._pair()
        return self.scale * jnp.matmul(a_IR, b_RO, precision=jax.lax.Precision.HIGHEST)

    def _stretch(self, kernel_IO: jax.Array, change_IO: jax.Array) -> jax.Array:
        """Of each column of W + s A B, the length that it shall have over that which it has."""
        assert self.magnitude is not None
        squares_O = jnp.sum(jnp.square(kernel_IO), axis=0)
        # The difference of the squares, so that without a change the quotient is one to the bit.
        more_O = jnp.sum(change_IO * (2 * kernel_IO + change_IO), axis=0)
        length_O = jax.lax.stop_gradient(_root(squares_O + more_O))
        wanted_O = _root(squares_O) + self.magnitude[...].reshape(-1)
        is_some_O = length_O > 0
        return jnp.where(is_some_O, wanted_O / jnp.where(is_some_O, length_O, 1.0), 1.0)


def _root(squares: jax.Array) -> jax.Array:
    """The square root; zero, and flat, where there is nothing to take one of."""
    is_some = squares > 0
    return jnp.where(is_some, jnp.sqrt(jnp.where(is_some, squares, 1.0)), 0.0)


def _specs(kernel: WeightSpec, rank: int) -> tuple[WeightSpec, WeightSpec, WeightSpec]:
    """The declarations of A, B and the magnitude: stacked, cut and decayed as the weight is."""
    lead, inputs, outputs = (
        (tuple(kernel.shape[dim] for dim in dims), tuple(kernel.axes[dim] for dim in dims))
        for dims in (kernel.batch_dims, kernel.input_dims, kernel.output_dims)
    )
    depth, num_inputs, num_outputs = len(lead[0]), len(inputs[0]), len(outputs[0])
    down = WeightSpec(
        (*lead[0], *inputs[0], rank),
        (*lead[1], *inputs[1], "rank"),
        "hidden",
        tuple(range(depth, depth + num_inputs)),
        (depth + num_inputs,),
    )
    up = WeightSpec(
        (*lead[0], rank, *outputs[0]),
        (*lead[1], "rank", *outputs[1]),
        "hidden",
        (depth,),
        tuple(range(depth + 1, depth + 1 + num_outputs)),
    )
    results = tuple(range(depth, depth + num_outputs))
    lengths = WeightSpec(
        (*lead[0], *outputs[0]), (*lead[1], *outputs[1]), "scale", output_dims=results
    )
    return down, up, lengths


def with_keys[T: nnx.Module](layer: T, keys_B: jax.Array | None, layout: Layout | None) -> T:
    """A layer whose adapters drop inputs, each with keys of its own; itself where none does.

    keys_B: one key an example, of this layer; None is evaluation.
    """
    if keys_B is None or not any(lora.rate for _, lora in modules(layer, Lora)):
        return layer
    copy = jax.tree.map(lambda param: param, layer, is_leaf=is_param)
    for number, (_, lora) in enumerate(modules(copy, Lora)):
        lora.keys_B = fold_in(keys_B, _FIRST_KEY + number)
        lora.layout = layout
    return copy


_FIRST_KEY = 16  # a layer's own dropout has those before


def modules[T: nnx.Module](
    module: nnx.Module, kind: type[T], prefix: str = ""
) -> Iterator[tuple[str, T]]:
    """(dotted path, module) of each module of a kind inside of another, in an order of names."""
    inside: dict[str, Any] = {
        name: value for name, value in vars(module).items() if isinstance(value, nnx.Module)
    }
    for name in sorted(inside):
        if isinstance(inside[name], kind):
            yield f"{prefix}{name}", inside[name]
        yield from modules(inside[name], kind, f"{prefix}{name}.")
