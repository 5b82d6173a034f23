"""A config as the search sees it: its shapes, its candidates on a slice, and their estimates."""

from collections.abc import Sequence

import jax

from jaxllm.aot.search import Search
from jaxllm.aot.search_memory import estimate_memory
from jaxllm.aot.search_outcome import Estimate
from jaxllm.aot.search_space import OPTIONAL_FLAGS, Candidate, candidates
from jaxllm.aot.search_time import estimate_time
from jaxllm.aot.search_workload import Piece, Workload
from jaxllm.aot.topology import Topology
from jaxllm.commands.assembly import stated_vocab_size
from jaxllm.config import RunConfig
from jaxllm.models import DecoderConfig
from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.objectives import CausalLm
from jaxllm.optim import state_axes


def make_search(workload: Workload, topology: Topology, *, flags_set: set[str]) -> Search:
    """All candidates of a workload on a slice, with their estimates.

    flags_set: compiler options that the config decides, which are not varied.
    """
    found = candidates(workload, num_devices=num_devices(topology), num_slices=topology.num_slices)
    flags = OPTIONAL_FLAGS[topology.tpu.name]
    return Search(
        estimates(workload, found, topology),
        limit=topology.tpu.hbm_limit_gib * 2**30,
        flags=[each for each in flags if not flags_set & dict(each).keys()],
    )


def estimates(
    workload: Workload, found: Sequence[Candidate], topology: Topology
) -> dict[Candidate, Estimate]:
    """The arithmetic about each candidate."""
    return {
        candidate: Estimate(
            estimate_memory(workload, candidate), estimate_time(workload, candidate, topology)
        )
        for candidate in found
    }


def num_devices(topology: Topology) -> int:
    """Devices of all slices, as JAX counts them."""
    count = topology.num_slices * topology.tpu.devices_per_chip
    for length in topology.shape:
        count *= length
    return count


def workload_of(config: RunConfig) -> Workload:
    """The config's model, optimizer and batch as shapes; nothing is allocated.

    ValueError for a network whose layouts are not searched.
    """
    if not isinstance(config.model, DecoderConfig) or not isinstance(config.objective, CausalLm):
        raise ValueError(
            f"plan searches for decoders that predict the next token; model.type is "
            f"{config.model.type} and objective.type is {config.objective.type}. Compile layouts "
            "one by one: jaxllm compile CONFIG --topology SLICE parallel.fsdp=8"
        )
    if config.adapter is not None or config.training.frozen:
        raise ValueError(
            "plan searches for runs that train all weights; leave out adapter and training.frozen, "
            "or compile layouts one by one: jaxllm compile CONFIG --topology SLICE parallel.fsdp=8"
        )
    size = config.model.padded_vocab_size(stated_vocab_size(config))
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = jax.eval_shape(lambda key: config.model.build(key, size), key)
    specs = spec_dict(model)
    optimizer = config.optim.build(specs, total_steps=config.training.steps)
    state = jax.eval_shape(optimizer.init, param_dict(model))
    pieces: list[Piece] = []
    jax.tree.map(
        lambda leaf, axes: pieces.append(Piece(leaf.shape, axes, leaf.dtype.itemsize)),
        state,
        state_axes(state, specs),
    )
    return Workload(
        config.model,
        specs,
        tuple(pieces),
        rows=config.data.global_batch_size,
        length=config.data.sequence_length,
        num_chunks=config.objective.num_chunks,
        weight_copies=1 if config.training.ema is None else 2,
        offload_optimizer=config.parallel.offload_optimizer,
    )
