"""Predictions of a set, batch by batch."""

import weakref
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from jaxllm.evaluation.perplexity import IN_FLIGHT
from jaxllm.evaluation.predictions import predict_set
from jaxllm.objectives.base import LossSums
from jaxllm.parallel.mesh import ParallelConfig

ROWS, BATCHES = 8, 6


class Batches(list):
    source = SimpleNamespace(num_rows=ROWS * BATCHES - 3)


def test_all_rows_in_order_and_few_of_them_on_the_devices():
    numbers = np.arange(ROWS * BATCHES, dtype=np.int32).reshape(BATCHES, ROWS)
    on_devices, most = [], 0

    def step(params, batch):
        nonlocal most
        found = {"told": batch["number"] + 1}
        on_devices.append(weakref.ref(found["told"]))
        most = max(most, sum(array() is not None for array in on_devices))
        zero = jnp.zeros(())
        return LossSums(loss=zero, nll=zero + 1, num_tokens=zero + 2), found

    layout = ParallelConfig().build()
    batches = Batches({"number": one} for one in numbers)
    told = predict_set(step, None, batches, layout=layout, rows=ROWS)
    np.testing.assert_array_equal(told.fields["told"], np.arange(Batches.source.num_rows) + 1)
    assert told.score[:2] == (BATCHES, 2 * BATCHES)
    assert most == IN_FLIGHT + 1
