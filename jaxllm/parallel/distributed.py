"""Several processes as one: start-up, the few things they agree on, and the end."""

import atexit
import os
import sys

import jax
import numpy as np

from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.hardware import quiet_tpu_runtime
from jaxllm.parallel import lifeline, preemption
from jaxllm.parallel.clusters import ask_metadata_server, find_gang
from jaxllm.parallel.gang import Gang

# Seconds that the processes which are done wait at the end for the others: the first may have much
# to do there, and the lifeline tells of those that die.
_LIMITS = {"shutdown_timeout_seconds": 24 * 3600}


_gang: Gang | None = None


def initialize() -> None:
    """Join the other processes, if anything says that there are any. Call before any array.

    `clusters.find_gang` says who is asked. From then on the death of one process ends all (see
    `lifeline`). A second call does nothing.

    ValueError for wrong variables; OSError where a port is taken, process 0 cannot be reached or
    processes are missing.
    """
    global _gang
    if jax.distributed.is_initialized():
        return
    quiet_tpu_runtime()
    gang = find_gang(os.environ, metadata=ask_metadata_server(os.environ))
    if gang is None:
        return
    if gang.count > 1:
        lifeline.begin(gang)
    _join(gang)
    _gang = gang
    atexit.register(_say_goodbye)  # registered last, it is called before JAX waits for all


def found() -> str | None:
    """How many processes make the run, and who said so; None where this one is alone."""
    return None if _gang is None else str(_gang)


def _join(gang: Gang) -> None:
    """JAX's own start; with a gang of one too, since its variables were given."""
    address = gang.coordinator
    if gang.rank == 0:
        lifeline.check_free(address)
    bind = {}
    if address.is_loopback:
        # JAX would listen on every interface of the machine.
        bind = {"coordinator_bind_address": address.joined}
    with preemption.handler_kept():
        jax.distributed.initialize(
            address.joined,
            gang.count,
            gang.rank,
            local_device_ids=gang.local_devices,
            cluster_detection_method="deactivate",  # it is done, and would hide GPUs under Slurm
            initialization_timeout=max(1, round(gang.start_timeout)),
            **_LIMITS,
            **bind,
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


def from_all(text: str) -> list[str]:
    """The text of every process, in the order of their ranks. All call it together."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    content = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(content.size)))
    row = np.zeros(sizes.max(), np.uint8)
    row[: content.size] = content
    rows = np.asarray(multihost_utils.process_allgather(row))
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


def barrier(name: str) -> None:
    """Wait until every process is here; nothing with one process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
