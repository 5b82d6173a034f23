"""Which rows of a global batch a process feeds, and how they become one global array."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.zigzag import zigzag_order


def host_rows(layout: Layout, global_rows: int) -> slice:
    """The contiguous block of batch rows that this process's devices hold.

    Taken from the sharding itself, so that it also holds where several processes share rows
    (a `tensor` axis across hosts) and where none does.
    """
    sharding = layout.sharding(("batch",))
    blocks = {
        (index[0].start or 0, global_rows if index[0].stop is None else index[0].stop)
        for index in sharding.addressable_devices_indices_map((global_rows,)).values()
    }
    start = min(block[0] for block in blocks)
    stop = max(block[1] for block in blocks)
    covered = sum(block[1] - block[0] for block in blocks)
    assert covered == stop - start, f"rows of this process are not contiguous: {sorted(blocks)}"
    return slice(start, stop)


def batch_sharding(layout: Layout, ndim: int) -> NamedSharding:
    """The sharding of a batch field: rows cut over the batch's axes, all else whole."""
    return layout.sharding(("batch", *(None,) * (ndim - 1)))


def global_batch(layout: Layout, host_batch: dict[str, np.ndarray], *, rows: int) -> dict[str, Any]:
    """This process's rows of each field -> global arrays of `rows` rows."""
    # With several processes JAX takes this transfer for an implicit one, which the guard of the
    # training loop refuses.
    with jax.transfer_guard_host_to_device("allow"):
        return {
            name: jax.make_array_from_process_local_data(
                batch_sharding(layout, field.ndim), field, (rows, *field.shape[1:])
            )
            for name, field in host_batch.items()
        }


def dealt_out(layout: Layout | None, x_BT: jax.Array) -> jax.Array:
    """x (B, T, ...) with its positions in the order in which the context's shards hold them.

    The order of the row unless the layout is in zigzag. Inside of jit.
    """
    if layout is None or not layout.is_zigzag:
        return x_BT
    order = zigzag_order(x_BT.shape[1], layout.axis_size("context"))
    return constrain(layout, x_BT[:, order], "batch", "length", *(None,) * (x_BT.ndim - 2))
