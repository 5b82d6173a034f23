"""Muon for the matrices between hidden dimensions, AdamW for everything else."""

import math
from typing import Any, Literal

import jax
import optax
import optax.contrib
from pydantic import Field

from jaxllm.optim.base import Beta, DecayingOptimizer, Epsilon, MomentDtype, Rate, Specs
from jaxllm.optim.stacked import stacking_depth
from jaxllm.parallel.axes import WeightSpec


class Muon(DecayingOptimizer):
    """Muon (Jordan et al., 2024; arXiv:2502.16982): momentum with all singular values near one.

    A weight is the matrix [inputs] x [outputs] with its dimensions flattened, each layer's for
    itself. Embeddings, the output projection, scales and biases are left to AdamW.
    """

    type: Literal["muon"] = "muon"
    """Muon for hidden matrices, AdamW for the rest."""

    learning_rate: Rate = 0.02
    """Peak learning rate of the matrices."""

    adam_learning_rate: Rate = 0.01
    """Peak learning rate of the embeddings, output projection, scales and biases."""

    beta: Beta = 0.95
    """Share of the mean gradient of a matrix kept each step."""

    nesterov: bool = True
    """Look one step ahead along the momentum of the matrices."""

    ns_steps: int = Field(default=5, ge=1)
    """Newton-Schulz iterations that orthogonalise the momentum."""

    consistent_rms: float | None = Field(default=None, gt=0)
    """RMS of a step of any matrix, before the rate (0.2 is like AdamW's); null scales by
    sqrt(max(1, outputs / inputs)) instead."""

    adam_beta1: Beta = 0.9
    """Share of the mean gradient kept each step, in AdamW."""

    adam_beta2: Beta = 0.95
    """Share of the mean squared gradient kept each step, in AdamW."""

    adam_eps: Epsilon = 1e-8
    """Added to the root of the mean squared gradient, in AdamW."""

    mu_dtype: MomentDtype = "float32"
    """Data type in which the mean gradients are kept."""

    def direction(self, specs: Specs) -> optax.GradientTransformation:
        muon = optax.contrib.scale_by_muon(
            ns_steps=self.ns_steps,
            beta=self.beta,
            nesterov=self.nesterov,
            mu_dtype=self.mu_dtype,
            weight_dimension_numbers=_of_matrices(_dimension_numbers, specs),
        )
        adam = optax.scale_by_adam(
            self.adam_beta1, self.adam_beta2, self.adam_eps, mu_dtype=self.mu_dtype
        )
        matrices = optax.chain(muon, self._scale_by_shape(specs))
        return optax.partition({"muon": matrices, "adam": adam}, _labels(specs))

    def _scale_by_shape(self, specs: Specs) -> optax.GradientTransformation:
        factors = _of_matrices(lambda spec: _shape_factor(spec, self.consistent_rms), specs)
        return optax.stateless(
            lambda updates, _: jax.tree.map(lambda leaf, by: leaf * by, updates, factors)
        )

    def step_size(self, specs: Specs, total_steps: int) -> optax.GradientTransformation:
        muon = self.schedule.build(self.learning_rate, total_steps=total_steps)
        adam = self.schedule.build(self.adam_learning_rate, total_steps=total_steps)
        return optax.partition(
            {
                "muon": optax.scale_by_learning_rate(muon),
                "adam": optax.scale_by_learning_rate(adam),
            },
            _labels(specs),
        )


def _labels(specs: Specs) -> Any:
    return jax.tree.map(lambda spec: "muon" if spec.role == "hidden" else "adam", specs)


def _of_matrices(function: Any, specs: Specs) -> Any:
    """`function` of each matrix's spec, and Optax's placeholder where AdamW is in charge."""
    return jax.tree.map(
        lambda spec: function(spec) if spec.role == "hidden" else optax.MaskedNode(), specs
    )


def _dimension_numbers(spec: WeightSpec) -> optax.contrib.MuonDimensionNumbers:
    assert spec.input_dims, f"a matrix needs input dimensions: {spec}"
    assert spec.output_dims, f"a matrix needs output dimensions: {spec}"
    stacking_depth(spec)  # asserts that the other dimensions are the stacking ones
    return optax.contrib.MuonDimensionNumbers(spec.input_dims, spec.output_dims)


def _shape_factor(spec: WeightSpec, consistent_rms: float | None) -> float:
    fan_out = math.prod(spec.shape[dim] for dim in spec.output_dims)
    if consistent_rms is None:
        return math.sqrt(max(1.0, fan_out / spec.fan_in))
    # An orthogonal matrix has RMS 1 / sqrt(its larger side).
    return consistent_rms * math.sqrt(max(fan_out, spec.fan_in))
