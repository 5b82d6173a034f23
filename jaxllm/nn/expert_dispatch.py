"""Tokens brought to the experts that they chose and back, on one device or across a mesh axis.

N tokens, K chosen experts of a token, M = N * K choices, D embed, E experts, P devices along the
mesh axis, C places for rows from one device to another, S = P * C slots.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.kernels.row_moves import from_slots, to_slots
from jaxllm.nn.expert_matrix import Operands

# By name, what each of an expert's products is made of.
Kernels = dict[str, Operands]
# (kernels, rows_SD grouped by expert, sizes_E of the groups) -> rows_SD; beyond them undefined.
Network = Callable[[Kernels, jax.Array, jax.Array], jax.Array]

# Places for rows, as a multiple of an even load. What finds no place waits for another round: a
# larger number costs memory and padding, a smaller one time.
HEADROOM = 1.25


def within_device(
    x_ND: jax.Array,
    choice_NK: jax.Array,
    weights_NK: jax.Array,
    kernels: Kernels,
    *,
    network: Network,
    num_experts: int,
) -> jax.Array:
    """(N, D) -> (N, D): the weighted sum of what the K experts of each token make of it.

    Summed in float32, the dtype of weights_NK. Memory: the M rows that go in and the M that come
    out, beside the hidden ones.
    """
    queue = sort_by_expert(choice_NK)
    y_MD = network(
        kernels,
        to_slots(x_ND, queue.order_M, queue.rank_NK),
        count(choice_NK, num_experts),
    )
    y_NKD = from_slots(y_MD, queue.order_M, queue.rank_NK)
    return weighted_sum(y_NKD, weights_NK).astype(x_ND.dtype)


def across_devices(
    x_ND: jax.Array,
    choice_NK: jax.Array,
    weights_NK: jax.Array,
    kernels: Kernels,
    *,
    network: Network,
    num_experts: int,
    axis: str,
    mesh_axes: tuple[str, ...],
    headroom: float = HEADROOM,
) -> jax.Array:
    """As `within_device`, where each device along `axis` has E / P experts and tokens of its own.

    Call it where all of `mesh_axes` are manual. kernels: those of this device's experts.

    In a round each device sends up to C rows to each, and gets as many results back: two
    all-to-alls of S = headroom * M rows, which is the memory too. With an even load one round
    carries all; otherwise rounds go on until every token was served. How many is known only at
    run time: they are a loop, and the backward pass computes all rounds but the first anew.
    """
    num_devices = jax.lax.axis_size(axis)
    plan = make_plan(choice_NK, num_experts=num_experts, num_devices=num_devices, headroom=headroom)
    # As many rounds on every device, or some would wait for rows that nobody sends.
    num_rounds = jax.lax.pmax(jnp.max(-(-plan.queued_P // plan.places_C.size)), mesh_axes)
    a_round = partial(serve, network=network, num_local=num_experts // num_devices, axis=axis)
    integers, others = _parted(kernels)
    y_ND = all_rounds(a_round)(((plan, integers), num_rounds), x_ND, weights_NK, others)
    return y_ND.astype(x_ND.dtype)


def _parted(kernels: Kernels) -> tuple[Any, Any]:
    """(the integers, which have no gradient; the others), each with None for the rest."""

    def of_kind(is_integer: bool) -> Any:
        return jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.integer) == is_integer else None,
            kernels,
        )

    return of_kind(True), of_kind(False)


def _joined(integers: Any, others: Any) -> Kernels:
    """What `_parted` took apart."""
    return jax.tree.map(
        lambda one, other: other if one is None else one,
        integers,
        others,
        is_leaf=lambda leaf: leaf is None,
    )


class Queue(NamedTuple):
    """Choices in the order of their experts: expert of each place, choice at it, place of each."""

    experts_M: jax.Array
    order_M: jax.Array
    rank_NK: jax.Array


def sort_by_expert(choice_NK: jax.Array) -> Queue:
    """The choices (token * K + k) sorted by expert, in the order of the tokens within one."""
    index_M = jnp.arange(choice_NK.size, dtype=jnp.int32)
    experts_M, order_M = jax.lax.sort((choice_NK.reshape(-1), index_M), num_keys=1)
    _, rank_M = jax.lax.sort((order_M, index_M), num_keys=1)
    return Queue(experts_M, order_M, rank_M.reshape(choice_NK.shape))


def count(values: jax.Array, num_values: int) -> jax.Array:
    """How often each of 0 .. num_values - 1 is among the values, int32."""
    is_equal = values.reshape(-1, 1) == jnp.arange(num_values)
    return jnp.sum(is_equal, axis=0, dtype=jnp.int32)


def weighted_sum(y_NKD: jax.Array, weights_NK: jax.Array) -> jax.Array:
    """(N, K, D) -> (N, D), in the dtype of the weights."""
    return jnp.sum(y_NKD.astype(weights_NK.dtype) * weights_NK[..., None], axis=1)


class Plan(NamedTuple):
    """Who sends what to whom: choices queue up for the device that has their expert.

    queued_P: length of each queue. starts_P: where it begins in `order_M` and `experts_M` (which
    end in C places that hold nothing). device_NK, place_NK: the queue of each choice and its place
    there. places_C: 0 .. C - 1.
    """

    queued_P: jax.Array
    starts_P: jax.Array
    order_M: jax.Array
    experts_M: jax.Array
    device_NK: jax.Array
    place_NK: jax.Array
    places_C: jax.Array


def make_plan(choice_NK: jax.Array, *, num_experts: int, num_devices: int, headroom: float) -> Plan:
    """The queues of one device's choices."""
    num_local = num_experts // num_devices
    num_tokens, top_k = choice_NK.shape
    most = num_tokens * min(top_k, num_local)  # a token chooses an expert once
    even = math.ceil(headroom * choice_NK.size / num_devices)
    places_C = jnp.arange(min(most, -(-even // 8) * 8), dtype=jnp.int32)  # tiles have 8 rows
    queue = sort_by_expert(choice_NK)
    device_NK = choice_NK // num_local
    queued_P = count(device_NK, num_devices)
    starts_P = jnp.cumsum(queued_P) - queued_P
    is_mine_NKP = device_NK[..., None] == jnp.arange(num_devices)
    return Plan(
        queued_P=queued_P,
        starts_P=starts_P,
        order_M=jnp.pad(queue.order_M, (0, places_C.size), constant_values=choice_NK.size),
        experts_M=jnp.pad(queue.experts_M, (0, places_C.size)),
        device_NK=device_NK,
        # A masked sum, as gathers of single numbers are slow on TPUs.
        place_NK=queue.rank_NK - jnp.sum(jnp.where(is_mine_NKP, starts_P, 0), axis=-1),
        places_C=places_C,
    )


def serve(
    given: tuple[Plan, Any],
    index: jax.Array | int,
    x_ND: jax.Array,
    weights_NK: jax.Array,
    others: Any,
    *,
    network: Network,
    num_local: int,
    axis: str,
) -> jax.Array:
    """(N, D) -> (N, D) float32: what round `index` adds to the weighted sums.

    given: the plan, and the integers among the kernels. others: the rest of them.
    """
    plan, integers = given
    kernels = _joined(integers, others)
    capacity, num_devices = plan.places_C.size, plan.queued_P.size
    num_slots = num_devices * capacity
    first = index * capacity  # place in every queue

    def next_in_line(values_M: jax.Array) -> jax.Array:
        take = partial(jax.lax.dynamic_slice_in_dim, values_M, slice_size=capacity)
        return jax.vmap(take)(plan.starts_P + first)

    is_held_PC = first + plan.places_C < plan.queued_P[:, None]
    sources_PC = jnp.where(is_held_PC, next_in_line(plan.order_M), plan.place_NK.size)
    experts_PC = jnp.where(is_held_PC, next_in_line(plan.experts_M) % num_local, num_local)
    is_next_NK = (plan.place_NK >= first) & (plan.place_NK < first + capacity)
    slots_NK = jnp.where(is_next_NK, plan.device_NK * capacity + plan.place_NK - first, num_slots)
    swap = partial(jax.lax.all_to_all, axis_name=axis, split_axis=0, concat_axis=0)
    sources_S = sources_PC.reshape(-1)
    there_SD = swap(to_slots(x_ND, sources_S, slots_NK).reshape(num_devices, capacity, -1))
    done_SD = apply_sorted(
        there_SD.reshape(num_slots, -1),
        swap(experts_PC).reshape(-1),
        kernels,
        network=network,
        num_local=num_local,
    )
    back_SD = swap(done_SD.reshape(num_devices, capacity, -1)).reshape(num_slots, -1)
    return weighted_sum(from_slots(back_SD, sources_S, slots_NK), weights_NK)


def apply_sorted(
    x_SD: jax.Array, experts_S: jax.Array, kernels: Kernels, *, network: Network, num_local: int
) -> jax.Array:
    """(S, D) -> (S, D): each row through its expert; undefined where the expert is `num_local`."""
    queue = sort_by_expert(experts_S[:, None])  # empty slots come last, beyond all groups
    y_SD = network(
        kernels, to_slots(x_SD, queue.order_M, queue.rank_NK), count(experts_S, num_local)
    )
    return from_slots(y_SD, queue.order_M, queue.rank_NK)[:, 0]


# What a compiled program calls the rounds after the first, of which even loads need none.
UNEVEN_LOADS = "uneven_loads"


def all_rounds(a_round: Callable) -> Callable:
    """((given, num_rounds), *inputs) -> sum over rounds of a_round(given, index, *inputs).

    given: what has no gradient. The first round is differentiated as usual; the others are a loop
    of unknown length, which JAX cannot reverse, so that its backward pass is another such loop.
    """

    @jax.custom_vjp
    def run(scheme: tuple[Any, jax.Array], *inputs: Any) -> jax.Array:
        return later(scheme, inputs, a_round(scheme[0], 0, *inputs))

    def later(scheme: tuple[Any, jax.Array], inputs: tuple, total: jax.Array) -> jax.Array:
        given, num_rounds = scheme

        def step(index: jax.Array, total: jax.Array) -> jax.Array:
            return total + a_round(given, index, *inputs)

        with jax.named_scope(UNEVEN_LOADS):
            return jax.lax.fori_loop(1, num_rounds, step, total)

    def forward(scheme: tuple[Any, jax.Array], *inputs: Any) -> tuple[jax.Array, tuple]:
        total, pull = jax.vjp(partial(a_round, scheme[0], 0), *inputs)
        return later(scheme, inputs, total), (pull, scheme, inputs)

    def backward(saved: tuple, gradient: jax.Array) -> tuple:
        pull, (given, num_rounds), inputs = saved

        def step(index: jax.Array, total: tuple) -> tuple:
            _, pull = jax.vjp(partial(a_round, given, index), *inputs)
            return jax.tree.map(jnp.add, total, pull(gradient))

        with jax.named_scope(UNEVEN_LOADS):
            return None, *jax.lax.fori_loop(1, num_rounds, step, pull(gradient))

    run.defvjp(forward, backward)
    return run
