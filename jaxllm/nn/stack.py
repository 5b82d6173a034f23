"""Equal layers, stacked: built with vmap, run with scan, recomputed in the backward pass.

This file alone knows that layers are stacked; compile time does not grow with depth.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxllm.nn.param import Nested, is_param
from jaxllm.nn.remat import OffloadPolicy, RematPolicy, keep_names, recompute
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import Layout
from jaxllm.parallel.pipeline import run_pipeline
from jaxllm.parallel.stages import inside

# Layer, carry, its x, rows, layout -> carry and y.
Body = Callable[[Any, Any, Any, Any, Layout | None], tuple[Any, Any]]

_LAYER_INPUT = "layer_input"
_MOVES = (
    "convert_element_type",
    "dynamic_slice",
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "sharding_constraint",
)


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
        self.layers = stacked(key, make_layer, num_layers=num_layers)
        self.num_layers = num_layers
        self.remat = remat
        self.offload = offload
        self.is_scanned = is_scanned

    def __call__(
        self, body: Body, carry: Any, xs: Any, *, rows: Any = None, layout: Layout | None = None
    ) -> tuple[Any, Any]:
        """Run carry, y = body(layer, carry, x, rows, layout) through the layers, in a pipeline
        where the layout has one.

        carry: arrays (B, ...). xs, ys: stacked, (L, ...). rows: arrays (B, ...) that every layer
        reads, such as positions. A pipeline gives `body` a microbatch of carry and rows, and the
        layout within a stage; its ys must be sums over the rows, and come out summed.
        """

        def step(carry: Any, layer_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
            layer, x = layer_and_x
            return body(layer, carry, x, rows, layout)

        if layout is not None and layout.pipeline is not None:
            return self._pipelined(body, carry, xs, rows=rows, layout=layout)
        return jax.lax.scan(
            recompute(step, self.remat, offload=self.offload, is_looped=self.is_scanned),
            carry,
            (self._shaped(self.num_layers), xs),
            unroll=1 if self.is_scanned else self.num_layers,
        )

    def _pipelined(
        self, body: Body, carry: Any, xs: Any, *, rows: Any, layout: Layout
    ) -> tuple[Any, Any]:
        assert layout.pipeline is not None
        rounds = layout.pipeline.num_rounds
        shape = (rounds, self.num_layers // rounds)
        xs = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), xs)

        def stage(carry: Any, layers_and_xs: Any, rows: Any) -> tuple[Any, Any]:
            def step(carry: Any, layer_and_x: tuple[Any, Any]) -> tuple[Any, Any]:
                layer, x = layer_and_x
                return body(layer, carry, x, rows, inside(layout))

            once = recompute(step, self.remat, offload=self.offload, is_looped=self.is_scanned)
            num_layers = shape[1] // layout.axis_size("stage")
            return jax.lax.scan(
                lambda carry, x: once(_named(carry), x),
                carry,
                layers_and_xs,
                unroll=1 if self.is_scanned else num_layers,
            )

        return run_pipeline(
            stage,
            carry,
            (self._shaped(*shape), xs),
            rows,
            layout=layout,
            tick_policy=_tick_policy(self.remat, self.offload),
        )

    def _shaped(self, *sizes: int) -> nnx.Module:
        """The layers with their weights stacked as (sizes..., ...), whether kept folded or not."""

        def shape(param: nnx.Param) -> nnx.Param:
            value = param.get_value()
            single = param.get_metadata("spec").shape[1:]
            return param.replace(value.reshape(*sizes, *single))

        return jax.tree.map(shape, self.layers, is_leaf=is_param)


def stacked[T: nnx.Module](
    key: jax.Array, make_layer: Callable[[jax.Array], T], *, num_layers: int
) -> T:
    """A module whose weights are those of equal ones, along a `layers` axis in front."""
    layers = jax.vmap(make_layer)(jax.random.split(key, num_layers))
    return jax.tree.map(
        lambda param: param.copy(spec=param.get_metadata("spec").stacked("layers", num_layers)),
        layers,
        is_leaf=is_param,
    )


def fold_specs(specs: Nested, num_rounds: int) -> Nested:
    """The specs of weights as a pipeline of several rounds keeps them: (L, ...) as (R, L / R, ...).

    Cut over the stages along the second dimension, each stage has its layers of every round.
    """
    if num_rounds == 1:
        return specs
    return jax.tree.map(lambda spec: _fold_spec(spec, num_rounds), specs)


def fold(params: Nested, specs: Nested) -> Nested:
    """Weights stacked in their natural order, in the shapes of folded specs."""
    return jax.tree.map(lambda leaf, spec: leaf.reshape(spec.shape), params, specs)


def _fold_spec(spec: WeightSpec, num_rounds: int) -> WeightSpec:
    if spec.axes[0] != "layers":
        return spec
    num_layers = spec.shape[0]
    assert num_layers % num_rounds == 0, (spec, num_rounds)
    folded = spec.stacked("rounds", num_rounds)
    return replace(folded, shape=(num_rounds, num_layers // num_rounds, *spec.shape[1:]))


def _named(carry: Any) -> Any:
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, _LAYER_INPUT), carry)


def _tick_policy(remat: RematPolicy, offload: OffloadPolicy) -> Callable:
    """What a tick of the pipeline keeps: the inputs of layers, and what each of them keeps."""
    if remat in ("none", "dots"):
        return _all_kept if remat == "none" else _inputs_and_matmuls
    return keep_names(remat, offload, _LAYER_INPUT)


def _inputs_and_matmuls(primitive: Any, *args: Any, **params: Any) -> bool:
    matmuls = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return params.get("name") == _LAYER_INPUT or matmuls(primitive, *args, **params)


def _all_kept(primitive: Any, *args: Any, **params: Any) -> bool:
    """All but moved or converted numbers: the weights of a round would be kept at every tick."""
    return primitive.name not in _MOVES
