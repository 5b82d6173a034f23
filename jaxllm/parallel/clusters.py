"""Who says which processes make a run: variables, a TPU slice and its metadata server, or Slurm.

The processes get the numbers that JAX's own detection gives them (jax/_src/clusters of 0.12), so
that both agree on who is first.
"""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from jaxllm.parallel.gang import Address, Gang, make_gang, read_gang

Metadata = Callable[[str], str | None]
"""An attribute of this virtual machine by its key; None if it has no such one."""

_TPU_PORT = 8482  # where JAX coordinates the hosts of a TPU slice
_MEGASCALE = "MEGASCALE_COORDINATOR_ADDRESS"
_SLICE_NUMBERS = ("MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_FIRST_PORT, _PORTS = 61440, 4096  # the last ports there are; a pair of them for each job
_TRIES, _PAUSE = 6, 0.5  # of asking the metadata server, and seconds between them
_ATTRIBUTES = "/computeMetadata/v1/instance/attributes/"


def find_gang(environ: Mapping[str, str], *, metadata: Metadata | None = None) -> Gang | None:
    """The processes of this run, seen by this one; None if it is alone.

    In this order: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID; the variables
    of a TPU slice, as GKE sets them; the metadata of a TPU VM; the variables of a Slurm step.
    metadata: None where there is no such server.

    ValueError where what says it is not whole, with its name; OSError where the server is silent.
    """
    return read_gang(environ) or _of_tpu_slice(environ, metadata) or _of_slurm(environ)


def ask_metadata_server(environ: Mapping[str, str]) -> Metadata | None:
    """How to ask the server of a Google virtual machine; None where the environment forbids it.

    GCE_METADATA_IP: host, or host:port, of another server. https://docs.cloud.google.com/compute/
    docs/metadata/overview
    """
    if environ.get("TPU_SKIP_MDS_QUERY"):
        return None
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")

    def ask(key: str) -> str | None:
        request = urllib.request.Request(
            f"http://{server}{_ATTRIBUTES}{key}", headers={"Metadata-Flavor": "Google"}
        )
        for left in reversed(range(_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return answer.read().decode()
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                problem: OSError = error
            except OSError as error:
                problem = error
            if left:
                time.sleep(_PAUSE)
        raise OSError(
            f"the metadata server {server} does not say which hosts make this TPU slice: "
            f"{problem}; if this host is alone, set TPU_SKIP_MDS_QUERY=1"
        ) from problem

    return ask


def _of_tpu_slice(environ: Mapping[str, str], metadata: Metadata | None) -> Gang | None:
    """The hosts of one or several TPU slices, slice by slice."""
    hosts, source = _tpu_hosts(environ)
    if hosts:
        worker, worker_source = environ.get("TPU_WORKER_ID"), "TPU_WORKER_ID"
        told = environ
    elif metadata is not None and (listed := metadata("worker-network-endpoints")):
        hosts, source = _endpoints(listed), "the metadata of this TPU VM"
        worker, worker_source = metadata("agent-worker-number"), "agent-worker-number"
        # A variable that is set, even to nothing, goes before what the machine was told.
        told = _tpu_env(metadata) | dict(environ)
    else:
        return None
    num_slices, slice_id, first = _slices(told, default=hosts[0])
    count = len(hosts) * num_slices
    if count == 1:
        return None
    rank = _number(worker, worker_source) + slice_id * len(hosts)
    if rank >= count:
        raise ValueError(
            f"{worker_source}={worker} is no host of the {len(hosts)} that {source} names; "
            "they count from 0"
        )
    if num_slices > 1:
        source = f"{source} and {_MEGASCALE} ({num_slices} slices)"
    coordinator = Address(first, _TPU_PORT, source)
    return make_gang(environ, rank=rank, count=count, coordinator=coordinator, found_by=source)


def _tpu_hosts(environ: Mapping[str, str]) -> tuple[list[str], str]:
    """The hosts of this slice by the variables that JAX reads, in its order, and which it was."""
    path = environ.get("TPU_PROCESS_ADDRESSES_PATH")
    if path:
        return _hosts(Path(path).read_text(encoding="utf-8")), "TPU_PROCESS_ADDRESSES_PATH"
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if environ.get(name):
            return _hosts(environ[name]), name
    return [], ""


def _hosts(listed: str) -> list[str]:
    """Host names or addresses without their ports."""
    return [host.split(":")[0] for host in listed.strip().split(",") if host]


def _endpoints(listed: str) -> list[str]:
    """Of `name:number:address` or just addresses, the addresses."""
    return [host.split(":")[-1] for host in listed.strip().split(",") if host]


def _slices(told: Mapping[str, str], *, default: str) -> tuple[int, int, str]:
    """How many slices, which of them this is, and the first host of all."""
    if not told.get(_MEGASCALE):
        return 1, 0, default
    numbers = [_number(told.get(name), name) for name in _SLICE_NUMBERS]
    return numbers[0], numbers[1], told[_MEGASCALE].split(":")[0]


def _tpu_env(metadata: Metadata) -> dict[str, str]:
    """What a TPU VM was told of its slices: lines as MEGASCALE_NUM_SLICES: '2'."""
    lines = (metadata("tpu-env") or "").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip(): value.strip().strip("'") for name, value in pairs}


def _of_slurm(environ: Mapping[str, str]) -> Gang | None:
    """The tasks of a step that `srun` started; a job without `srun` has one process."""
    if not all(environ.get(name) for name in _SLURM):
        return None
    job, nodes, count, rank, local = (environ[name] for name in _SLURM)
    count = environ.get("SLURM_STEP_NUM_TASKS", count)
    if count == "1":
        return None
    # Jobs that share a host should not meet, and the lifeline needs the port after it.
    port = _FIRST_PORT + 2 * (_number(job, "SLURM_JOB_ID") % (_PORTS // 2))
    gang = make_gang(
        environ,
        rank=_number(rank, "SLURM_PROCID"),
        count=_number(count, "SLURM_NTASKS"),
        coordinator=Address(_first_node(nodes), port, f"Slurm job {job}"),
        found_by=f"Slurm job {job}",
    )
    return replace(gang, local_devices=_own_gpus(environ, _number(local, "SLURM_LOCALID")))


def _first_node(nodes: str) -> str:
    """The first of `node001`, `a,b`, `node[001-015],b` or `node[001,007]`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST={nodes!r} names no host")
    return match[1] + (match[2] or "")


def _own_gpus(environ: Mapping[str, str], local: int) -> tuple[int, ...] | None:
    """One GPU for each of several tasks of a host, unless Slurm shows each its own already."""
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    sees_one = environ.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0
    return None if tasks.split("(")[0].split(",")[0] == "1" or sees_one else (local,)


def _number(given: str | None, name: str) -> int:
    if given is None or not given.strip().isdigit():
        raise ValueError(f"{name}={given!r} is no number; it says which of several hosts this is")
    return int(given)
