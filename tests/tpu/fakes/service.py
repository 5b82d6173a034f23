"""The fake TPU service: queued resources, their nodes and hosts, in a folder that outlives calls.

It plays the scenario of that folder. Its words are those of the real service's API, as the tools
of Google Cloud show them.
"""

import fcntl
import os

from . import hosts, literals

_GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING")  # no host lives in these states
_AWAY = "UNAVAILABLE: The service is currently unavailable."


class ServiceError(Exception):
    """What the service refuses, in its words."""


class Service:
    """A context manager: inside, the folder is locked; what happened is saved, errors or not."""

    def __init__(self, folder):
        self._folder = str(folder)

    def __enter__(self):
        self._lock = open(f"{self._folder}/lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._scenario = literals.load(f"{self._folder}/scenario")
        self._state = {"resources": {}, "created": 0, "deletions": 0, "looks": 0, "history": []}
        if os.path.exists(f"{self._folder}/service"):
            self._state = literals.load(f"{self._folder}/service")
        return self

    def __exit__(self, *_):
        literals.save(f"{self._folder}/service", self._state)
        self._lock.close()

    def create(self, name, *, nodes, asked):
        """Put a request into the queue. Whether the call then hangs."""
        number = self._state["created"]
        lives = self._scenario["lives"]
        life = lives[min(number, len(lives) - 1)]
        self._state["created"] += 1
        if life["refused"] is not None:
            self._note("refused", name)
            raise ServiceError(life["refused"])
        if name in self._state["resources"]:
            if life["create_hangs"]:
                return True
            raise ServiceError(f"ALREADY_EXISTS: Resource 'queuedResources/{name}' already exists")
        self._state["resources"][name] = {
            "life": life,
            "folder": f"{self._folder}/hosts/{name}-{number}",
            "asked": asked,
            "state": None,
            "looks": 0,
            "nodes": {node: {"slice": index, "looks": 0} for index, node in enumerate(nodes)},
            "is_booted": False,
            "is_preempted": False,
        }
        self._note("created", name)
        return life["create_hangs"]

    def names(self):
        """The queued resources that there are; each costs, or holds quota."""
        return sorted(self._state["resources"])

    def describe(self, name):
        """The queued resource as the API shows it. Each look moves it on in its scenario."""
        self._state["looks"] += 1
        if self._state["looks"] - 1 in self._scenario["describe_errors"]:
            raise ServiceError(_AWAY)
        resource = self._resource(name)
        state = _at(resource["life"]["states"], resource["looks"])
        resource["looks"] += 1
        if resource["is_preempted"]:
            state = "SUSPENDED"
        elif state in _GONE:
            self.preempt(name)
        elif state == "ACTIVE" and not resource["is_booted"]:
            self._boot(resource)
        if state != resource["state"]:
            resource["state"] = state
            self._note(state, name)
        shown = {"state": state}
        if state == "FAILED":
            shown["failedData"] = {"error": {"message": resource["life"]["failure"]}}
        return {"state": shown, "tpu": {"nodeSpec": [{"node": resource["asked"]}]}}

    def node(self, name):
        """A node as the API shows it."""
        resource, node = self._find_node(name)
        state = _at(resource["life"]["node_states"], node["looks"])
        node["looks"] += 1
        if resource["is_preempted"]:
            state = "PREEMPTED"
        addresses = [{"ipAddress": f"10.0.0.{i}"} for i in range(resource["life"]["hosts"])]
        return {"state": state, "networkEndpoints": addresses}

    def hosts_of(self, name):
        """The folders of a node's hosts, worker by worker, for ssh and scp."""
        resource, node = self._find_node(name)
        if resource["is_preempted"]:
            raise ServiceError(
                'This TPU has terminal state "PREEMPTED", so it cannot be used anymore.'
            )
        count = resource["life"]["hosts"]
        return [f"{resource['folder']}/{node['slice']}.{worker}" for worker in range(count)]

    def delete(self, name, *, is_forced):
        """Remove a queued resource with its nodes, which `is_forced` allows."""
        self._state["deletions"] += 1
        if self._state["deletions"] <= self._scenario["delete_errors"]:
            raise ServiceError(_AWAY)
        resource = self._resource(name)
        if not is_forced and resource["state"] not in ("SUSPENDED", "FAILED"):
            raise ServiceError("FAILED_PRECONDITION: it has nodes, which only force deletes too")
        self.preempt(name)
        del self._state["resources"][name]
        self._note("deleted", name)

    def preempt(self, name):
        """Take the hosts away, all at once."""
        resource = self._resource(name)
        if resource["is_booted"] and not resource["is_preempted"]:
            for node in resource["nodes"].values():
                for worker in range(resource["life"]["hosts"]):
                    hosts.kill(f"{resource['folder']}/{node['slice']}.{worker}")
        resource["is_preempted"] = True

    def _boot(self, resource):
        resource["is_booted"] = True
        life = resource["life"]
        workers = range(life["hosts"])
        places = [
            (node["slice"], worker) for node in resource["nodes"].values() for worker in workers
        ]
        ports = _free_ports(2) if self._scenario["is_real"] else None
        for rank, (slice_id, worker) in enumerate(places):
            place = f"{slice_id}.{worker}"
            variables = dict(life["environment"])
            if ports:
                variables |= _gang(rank, len(places), ports)
            hosts.boot(
                f"{resource['folder']}/{place}",
                worker=worker,
                environment=variables,
                troubles=_troubles(life, place),
            )

    def _resource(self, name):
        found = self._state["resources"].get(name)
        if found is None:
            raise ServiceError(f"NOT_FOUND: Resource 'queuedResources/{name}' was not found")
        return found

    def _find_node(self, name):
        for resource in self._state["resources"].values():
            if resource["is_booted"] and name in resource["nodes"]:
                return resource, resource["nodes"][name]
        raise ServiceError(f"NOT_FOUND: Resource 'nodes/{name}' was not found")

    def _note(self, event, name):
        self._state["history"].append((event, name))


def _at(values, index):
    """The value at an index; the last one stays."""
    return values[min(index, len(values) - 1)]


def _troubles(life, place):
    """The files that tell a host what happens to it."""
    return {
        "apt_lock": life["apt_locks"].get(place, 0),
        "is_broken": int(place in life["broken"]),
        "dies_at_ssh": life["dies_at_ssh"].get(place),
        "deaf_at_ssh": life["deaf_at_ssh"].get(place, ()),
        "job": life["jobs"].get(place, life["job"]),
    }


def _gang(rank, count, ports):
    """The variables by which the processes of several hosts on one machine find each other."""
    return {
        "FAKE_REAL": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{ports[0]}",
        "JAXLLM_LIFELINE_ADDRESS": f"127.0.0.1:{ports[1]}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(rank),
    }


def _free_ports(count):
    """Different TCP ports that nothing listens on, on loopback."""
    import socket

    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
