"""Which rows of a global batch a process feeds, and how they become one global array."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxllm.parallel.layouts import Layout, constrain
from jaxllm.parallel.zigzag import zigzag_order


@lru_cache(maxsize=16)
def host_rows(layout: Layout, global_rows: int) -> tuple[int, ...]:
    """The rows of a batch that this process's devices hold, in ascending order.

    Taken from the sharding itself, because on a torus of chips the devices of a process need not
    be neighbours in the mesh, and several processes may hold the same rows (`tensor` across hosts).
    """
    held = layout.sharding(("batch",)).addressable_devices_indices_map((global_rows,))
    return tuple(sorted({row for index in held.values() for row in _rows(index, global_rows)}))


def _rows(index: tuple[slice, ...], global_rows: int) -> range:
    return range(global_rows)[index[0]]


def batch_sharding(layout: Layout, ndim: int) -> NamedSharding:
    """The sharding of a batch field: rows cut over the batch's axes, all else whole."""
    return layout.sharding(("batch", *(None,) * (ndim - 1)))


def global_batch(layout: Layout, host_batch: dict[str, np.ndarray], *, rows: int) -> dict[str, Any]:
    """This process's rows (`host_rows`) of each field -> global arrays of `rows` rows."""
    place = {row: number for number, row in enumerate(host_rows(layout, rows))}

    def assemble(field: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            wanted = _rows(index, rows)  # one stretch, and neighbours in the mesh are here too
            return field[place[wanted[0]] : place[wanted[-1]] + 1]

        sharding = batch_sharding(layout, field.ndim)
        return jax.make_array_from_callback((rows, *field.shape[1:]), sharding, part)

    # With several processes JAX takes this transfer for an implicit one, which the guard of the
    # training loop refuses.
    with jax.transfer_guard_host_to_device("allow"):
        return {name: assemble(field) for name, field in host_batch.items()}


def dealt_out(layout: Layout | None, x_BT: jax.Array) -> jax.Array:
    """x (B, T, ...) with its positions in the order in which the context's shards hold them.

    The order of the row unless the layout is in zigzag. Inside of jit.
    """
    if layout is None or not layout.is_zigzag:
        return x_BT
    order = zigzag_order(x_BT.shape[1], layout.axis_size("context"))
    return constrain(layout, x_BT[:, order], "batch", "length", *(None,) * (x_BT.ndim - 2))
