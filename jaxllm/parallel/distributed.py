"""Several processes as one: start-up, the few things they agree on, and the end."""

import atexit
import os
import sys

import jax
import numpy as np

from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.hardware import quiet_tpu_runtime
from jaxllm.parallel import lifeline, preemption
from jaxllm.parallel.gang import (
    Gang,
    has_tpu_hosts,
    lifeline_address,
    parse_address,
    read_gang,
    start_timeout,
)

# Seconds that the processes which are done wait at the end for the others: the first may have much
# to do there, and the lifeline tells of those that die.
_LIMITS = {"shutdown_timeout_seconds": 24 * 3600}


def initialize() -> None:
    """Join the other processes, if the environment says that there are any. Call before any array.

    JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them, on any
    platform. On a TPU slice of several hosts JAX finds them by itself. From then on the death of
    one ends all (see `lifeline`). A second call does nothing.

    ValueError for wrong variables; OSError where a port is taken, process 0 cannot be reached or
    processes are missing.
    """
    if jax.distributed.is_initialized():
        return
    quiet_tpu_runtime()
    gang = read_gang(os.environ)
    if gang is not None:
        if gang.count > 1:
            lifeline.begin(gang)
        _join(gang)
    elif has_tpu_hosts(os.environ):
        with preemption.handler_kept():
            jax.distributed.initialize(**_LIMITS)
        lifeline.begin(_found_by_jax())
    else:
        return
    atexit.register(_say_goodbye)  # registered last, it is called before JAX waits for all


def _join(gang: Gang) -> None:
    """JAX's own start; with a gang of one too, since its variables were given."""
    limit = {"initialization_timeout": max(1, round(gang.start_timeout))} | _LIMITS
    with preemption.handler_kept():
        if gang.is_found_by_jax:
            jax.distributed.initialize(**limit)
            return
        address = gang.coordinator
        if gang.rank == 0:
            lifeline.check_free(address)
        bind = {}
        if address.is_loopback:
            # JAX would listen on every interface of the machine.
            bind = {"coordinator_bind_address": address.joined}
        jax.distributed.initialize(address.joined, gang.count, gang.rank, **limit, **bind)


def _found_by_jax() -> Gang:
    """The processes that JAX asked the cloud for; it tells nobody but its own modules."""
    from jax._src.distributed import global_state

    assert global_state.coordinator_address is not None
    coordinator = parse_address(global_state.coordinator_address, "the address that JAX found")
    return Gang(
        rank=global_state.process_id,
        count=global_state.num_processes,
        coordinator=coordinator,
        lifeline=lifeline_address(os.environ, coordinator),
        start_timeout=start_timeout(os.environ),
    )


def leave(code: int, reason: str = "it failed") -> None:
    """Before the process ends: lets the others go on or end, as the exit code says.

    After 0 and 75 returns, and a normal exit follows, which waits for all. After any other code
    the process ends here at once if it is one of several: a normal exit would wait for the others,
    and they for this one, until JAX gives up.
    """
    if code in (0, EXIT_INTERRUPTED):
        lifeline.goodbye()
        return
    lifeline.report(code, reason)
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _say_goodbye() -> None:
    """At an exit that nobody announced: of a script that calls jaxllm as a library."""
    error = getattr(sys, "last_exc", None)
    if error is None:
        leave(0)
    else:
        leave(1, f"{type(error).__name__}: {error}")


def is_first() -> bool:
    """Whether this process writes what is written once: metrics, config, reports."""
    return jax.process_index() == 0


def from_first(text: str) -> str:
    """The first process's text, on every process. All call it together."""
    if jax.process_count() == 1:
        return text
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):  # the training loop forbids what is not explicit
        length = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
        row = np.zeros(length, np.uint8)
        if is_first():
            row[:] = content
        return bytes(np.asarray(multihost_utils.broadcast_one_to_all(row))).decode()


def barrier(name: str) -> None:
    """Wait until every process is here; nothing with one process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
