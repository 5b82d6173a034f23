"""Batches whose loss is not what it should be, whenever a run reads them."""

from collections.abc import Mapping

import jax.numpy as jnp

from jaxllm.commands import assembly

from . import runs


def batches(monkeypatch, factors: Mapping[int, float], *, rows: int = runs.ROWS) -> None:
    """Multiplies the loss of batches, by number: NaN, infinity, or a large number."""
    original = assembly.make_loss
    numbers = jnp.asarray(list(factors))
    values = jnp.asarray(list(factors.values()), jnp.float32)

    def make_loss(*arguments):
        loss = original(*arguments)

        def poisoned(params, batch, keys_B):
            sums = loss(params, batch, keys_B)
            is_this = numbers == batch["example_index"][0] // rows
            factor = jnp.prod(jnp.where(is_this, values, 1.0))
            return sums._replace(loss=sums.loss * factor, nll=sums.nll * factor)

        return poisoned

    monkeypatch.setattr(assembly, "make_loss", make_loss)
