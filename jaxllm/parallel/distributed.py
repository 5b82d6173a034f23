"""Several processes as one: start-up and the few things they agree on."""

import os

import jax

from jaxllm.hardware import quiet_tpu_runtime

_ADDRESS, _COUNT, _RANK = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def initialize() -> None:
    """Join the other processes, if the environment says that there are any. Call before any array.

    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them, on any
    platform. On a TPU slice of several hosts JAX finds them by itself. ValueError if only some of
    the three variables are set.
    """
    quiet_tpu_runtime()
    given = {name: os.environ[name] for name in (_ADDRESS, _COUNT, _RANK) if os.environ.get(name)}
    if given:
        if len(given) < 3 or not given[_COUNT].isdigit() or not given[_RANK].isdigit():
            raise ValueError(
                f"the environment has {given}; a run of several processes needs "
                f"{_ADDRESS}=host:port, {_COUNT}=how many and {_RANK}=which (from 0), all three"
            )
        bind = {}
        if given[_ADDRESS].rpartition(":")[0] in ("127.0.0.1", "localhost"):
            # JAX would listen on every interface of the machine.
            bind = {"coordinator_bind_address": given[_ADDRESS]}
        jax.distributed.initialize(given[_ADDRESS], int(given[_COUNT]), int(given[_RANK]), **bind)
    elif _tpu_hosts() > 1:
        jax.distributed.initialize()


def _tpu_hosts() -> int:
    """The number of hosts that the TPU runtime was told of; 0 where there is none."""
    if os.environ.get("MEGASCALE_COORDINATOR_ADDRESS"):
        return 2
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return len([host for host in hosts.split(",") if host])


def is_first() -> bool:
    """Whether this process writes what is written once: metrics, config, reports."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process is here; nothing with one process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
