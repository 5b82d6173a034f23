"""A stand-in for `gcloud` that knows the few commands of tpu/*.sh, with the flags of the real one.

Flags, words and exit codes are those of Google Cloud SDK 528. What the real one would refuse is
refused; what this one does not know is refused too. Each call is recorded, one literal a line.
"""

import os
import sys
import time

from . import output
from .arguments import UsageError, parsed
from .service import Service, ServiceError

_HANG = 600  # seconds
_TPUS = ("compute", "tpus")
_EVERYWHERE = ("--quiet",)
_WHERE = ("--project", "--zone")
_CREATE_VALUES = (
    *("--accelerator-type", "--runtime-version", "--node-id", "--node-count", "--node-prefix"),
    *("--service-account", "--scopes", "--labels", "--metadata", "--metadata-from-file", "--tags"),
    *("--network", "--subnetwork", "--description", "--data-disk", "--type", "--topology"),
    *("--valid-after-duration", "--valid-after-time", "--valid-until-duration"),
    *("--valid-until-time", "--reservation-host-project"),
)
_CREATE_SWITCHES = ("--spot", "--reserved", "--guaranteed", "--internal-ips", "--async")
_SSH_VALUES = ("--worker", "--command", "--output-directory")


def main():
    """Carry out one call in the folder that FAKE_CLOUD names."""
    folder, words = os.environ["FAKE_CLOUD"], sys.argv[1:]
    with open(f"{folder}/calls", "a", encoding="utf-8") as calls:
        calls.write(f"{['gcloud', *words]!r}\n")  # at once: calls side by side do not mix
    for path, command in _COMMANDS.items():
        if tuple(words[: len(path)]) == path:
            try:
                raise SystemExit(command(folder, words[len(path) :]))
            except ServiceError as error:
                _fail(path, error, code=1)
            except UsageError as error:
                _fail(path, error, code=2)
    _fail((), f"Invalid choice: {' '.join(words[:4])!r}.", code=2)


def _create(folder, words):
    given = _placed(words, ("resource",), values=_CREATE_VALUES, switches=_CREATE_SWITCHES)
    if not given["accelerator-type"] or not given["runtime-version"]:
        raise UsageError("argument --accelerator-type --runtime-version: Must be specified.")
    count = int(given["node-count"] or 0)
    if bool(given["node-id"]) == bool(count):
        raise UsageError("Exactly one of (--node-count | --node-id) must be specified.")
    if given["node-prefix"] and not count:
        raise UsageError("Can only specify --node-prefix if --node-count is also specified.")
    if count == 1:
        raise UsageError("Invalid value for [--node-count]: Node count must be greater than 1")
    prefix = given["node-prefix"] or given["resource"]
    asked = {
        "acceleratorType": given["accelerator-type"],
        "runtimeVersion": given["runtime-version"],
        "labels": dict(pair.split("=", 1) for pair in (given["labels"] or "").split(",") if pair),
    }
    with Service(folder) as service:
        hangs = service.create(
            given["resource"],
            nodes=[f"{prefix}-{index}" for index in range(count)] or [given["node-id"]],
            asked=asked,
        )
    if hangs:
        time.sleep(_HANG)
    print(f"Create request issued for: [{given['resource']}]", file=sys.stderr)


def _describe(folder, words):
    given = _placed(words, ("resource",), values=("--format",))
    with Service(folder) as service:
        found = service.describe(given["resource"])
    print(output.formatted(found, given["format"]))


def _delete(folder, words):
    given = _placed(words, ("resource",), switches=("--force", "--async"))
    if not given["quiet"]:
        raise UsageError("This prompt could not be answered: you are not in an interactive session")
    with Service(folder) as service:
        service.delete(given["resource"], is_forced=given["force"])
    print(f"Deleted queued resource [{given['resource']}].", file=sys.stderr)


def _describe_node(folder, words):
    given = _placed(words, ("node",), values=("--format",))
    with Service(folder) as service:
        found = service.node(given["node"])
    print(output.formatted(found, given["format"]))


def _ssh(folder, words):
    values, switches = (*_SSH_VALUES, "--ssh-flag"), ("--internal-ip", "--plain")
    given = _placed(words, ("node",), values=values, switches=switches)
    found = _workers(folder, given["node"], given["worker"])
    if not given["command"]:
        raise UsageError("cannot target multiple workers without the `--command` flag.")
    from . import remote

    return remote.ssh(found, given["command"])


def _scp(folder, words):
    switches = ("--recurse", "--compress", "--internal-ip", "--plain")
    names, values = ("source", "destination"), ("--worker", "--scp-flag")
    given = _placed(words, names, values=values, switches=switches)
    node, colon, path = given["destination"].partition(":")
    if not colon:
        raise UsageError("this stand-in only copies to a node")
    found = _workers(folder, node, given["worker"])
    from . import remote

    return remote.scp(found, given["source"], path)


def _storage_ls(folder, words):
    from . import bucket

    given = parsed(words, positionals=("url",), values=("--project",), switches=_EVERYWHERE)
    found = bucket.listed(f"{folder}/buckets", given["url"])
    if not found:
        raise ServiceError("One or more URLs matched no objects.")
    print("\n".join(found))


_COMMANDS = {
    (*_TPUS, "queued-resources", "create"): _create,
    (*_TPUS, "queued-resources", "describe"): _describe,
    (*_TPUS, "queued-resources", "delete"): _delete,
    (*_TPUS, "tpu-vm", "describe"): _describe_node,
    (*_TPUS, "tpu-vm", "ssh"): _ssh,
    (*_TPUS, "tpu-vm", "scp"): _scp,
    ("storage", "ls"): _storage_ls,
}


def _placed(words, names, *, values=(), switches=()):
    """The arguments of a command that needs a project and a zone."""
    values, switches = (*_WHERE, *values), (*_EVERYWHERE, *switches)
    given = parsed(words, positionals=names, values=values, switches=switches)
    for key in ("project", "zone"):
        if not given[key]:
            raise ServiceError(f"The [{key}] resource is not properly specified.")
    return given


def _workers(folder, node, asked):
    """The hosts that are meant, by worker."""
    with Service(folder) as service:
        found = dict(enumerate(service.hosts_of(node.rpartition("@")[2])))
    if asked == "all":
        return found
    if int(asked or 0) not in found:
        raise ServiceError(f"worker index {asked} is larger than the valid worker indexes")
    return {int(asked or 0): found[int(asked or 0)]}


def _fail(path, message, *, code):
    print(f"ERROR: ({'.'.join(('gcloud', *path))}) {message}", file=sys.stderr)
    raise SystemExit(code)
